"""Sessions of ONNX Runtime that give the same bits for the same file, inputs and threads."""

from __future__ import annotations

import onnxruntime

from network.runtime import FATAL, runtime_errors


def session_options(threads: int) -> onnxruntime.SessionOptions:
    """Those that a user would take, on so many threads within an operator."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = FATAL
    return options


def session_with(model: bytes, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    """A session on the CPU.

    Raises:
        ModelInvalid, ModelTooLarge: ONNX Runtime refuses the file.
    """
    with runtime_errors("load"):
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def deterministic_session(model: bytes, threads: int, *, exact: bool = False) -> onnxruntime.InferenceSession:
    """A session that gives the same bits every time.

    Args:
        exact: integer kernels may not saturate between products, as those of x86 processors without VNNI do.

    Raises:
        ModelInvalid, ModelTooLarge: ONNX Runtime refuses the file.
    """
    options = session_options(threads)
    options.use_deterministic_compute = True
    if exact:
        options.add_session_config_entry("session.x64quantprecision", "1")
    return session_with(model, options)
