"""What the files of a certificate show without being run on samples, as JSON: `quantization.inspection`."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from enum import Enum
from typing import Any

import numpy as np
from onnx import ModelProto

from quantization.errors import FileNotInspected
from quantization.inspection.findings import Finding, defect
from quantization.inspection.inspection import inspect

logger = logging.getLogger(__name__)

NOTHING_READ: dict[str, Any] = {
    "weights": [],
    "unmatched": [],
    "activations": [],
    "kernels": {"operators": {}, "slow": []},
    "float_share": None,
}
"""What stands in a certificate where the inspection failed."""


def inspected(float_file: bytes, quantized_file: bytes) -> dict[str, Any]:
    """The inspection of a quantized file against its float network, its findings among it.

    Raises:
        FileNotInspected: ONNX Runtime does not load the quantized file.
    """
    try:
        document = _plain(asdict(inspect(ModelProto.FromString(float_file), ModelProto.FromString(quantized_file))))
    except FileNotInspected:
        raise
    except (
        ValueError,
        TypeError,
        LookupError,
        ArithmeticError,
        AttributeError,
        RuntimeError,
        NotImplementedError,
    ) as error:
        # Files of every make come here, and what was measured stands. But what nobody looked at is not certified.
        logger.exception("the inspection of a quantized file failed")
        document = {**NOTHING_READ, "findings": [finding_document(_not_read(error))]}
    # the files themselves, not the messages in memory
    return {**document, "float_bytes": len(float_file), "quantized_bytes": len(quantized_file)}


def _not_read(error: Exception) -> Finding:
    return defect(
        "not_inspected",
        "",
        f"the file cannot be read against its float model ({type(error).__name__}), so that nobody knows whether its "
        "weights are right; the log of the worker has the details: report it, with both files if you can",
    )


def finding_document(finding: Finding) -> dict[str, Any]:
    """One finding as it stands in a certificate."""
    return dict(_plain(asdict(finding)))


def _plain(value: Any) -> Any:
    """JSON of dataclasses' members: numpy's numbers as Python's, and null for what is not finite."""
    if isinstance(value, Mapping):
        return {str(key): _plain(member) for key, member in value.items()}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, str) or value is None:
        return value
    if isinstance(value, Sequence):
        return [_plain(member) for member in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    number = float(value)
    return number if math.isfinite(number) else None
