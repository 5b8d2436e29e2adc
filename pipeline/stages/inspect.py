"""Inspect: what a quantized file stores, read against its float network, without running it on samples."""

from __future__ import annotations

from pipeline.config import Nothing
from pipeline.context import Context
from pipeline.inspections import inspected
from pipeline.results import pack


def run(context: Context, _config: Nothing) -> bytes:
    """The inspection as a document.

    Raises:
        FileNotInspected: ONNX Runtime does not load the quantized file.
    """
    context.check()
    return pack(inspected(context.model_path.read_bytes(), context.bytes_of("quantized")))
