"""Sessions of ONNX Runtime that give the same bits for the same file, inputs and threads."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import onnxruntime
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # ships no types
from onnx import ModelProto

from evaluation.decoded import decoded
from network.runtime import FATAL, WEIGHT_FOLDER, runtime_errors
from network.weight_folder import WeightFolder, in_folder


def session_options(threads: int) -> onnxruntime.SessionOptions:
    """Those that a user would take, on so many threads within an operator."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = FATAL
    return options


def session_with(model: bytes | Path, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    """A session on the CPU.

    Raises:
        ModelInvalid, ModelTooLarge: ONNX Runtime refuses the file.
    """
    with runtime_errors("load"):
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def deterministic_session(
    model: bytes | Path | ModelProto, threads: int, *, exact: bool = False, weights: WeightFolder | None = None
) -> onnxruntime.InferenceSession:
    """A session that gives the same bits every time, and as few bytes of memory as it takes.

    Args:
        model: the file; of its bytes, weights that functions decode are decoded one by one (`evaluation.decoded`).
        exact: integer kernels may not saturate between products, as those of x86 processors without VNNI do.
        weights: a folder that has initializers which a message lacks; None: it has them all.

    Raises:
        ModelInvalid, ModelTooLarge: ONNX Runtime refuses the file.
    """
    options = session_options(threads)
    options.use_deterministic_compute = True
    if exact:
        options.add_session_config_entry("session.x64quantprecision", "1")
    folder = weights or WeightFolder()
    with runtime_errors("load"):
        lean = in_folder(model, folder) if isinstance(model, ModelProto) else None
        if isinstance(model, bytes):
            with suppress(DecodeError):  # ONNX Runtime says what is wrong with it
                lean = decoded(ModelProto.FromString(model), folder, threads)
    if lean is None:
        return session_with(model, options)
    options.add_session_config_entry(WEIGHT_FOLDER, str(folder.path))
    return session_with(lean.SerializeToString(), options)
