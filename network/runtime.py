"""Sessions of ONNX Runtime for parts of a network, which run many times between other work."""

from __future__ import annotations

import onnx
import onnxruntime


def session_of(model: onnx.ModelProto, threads: int) -> onnxruntime.InferenceSession:
    """A session on the CPU, with so many threads within an operator."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only: it warns of every initializer that folding makes unused
    # spinning threads of many sessions take the cores from each other, and from what is computed between the runs
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
