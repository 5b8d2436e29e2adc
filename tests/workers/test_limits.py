from __future__ import annotations

import subprocess
import sys

import pytest

from workers.limits import SMALLEST_MEMORY_LIMIT_BYTES, check_memory_limit, thread_count


def _python(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)


def test_a_limit_below_what_the_libraries_take_is_refused():
    check_memory_limit(None)
    check_memory_limit(SMALLEST_MEMORY_LIMIT_BYTES)
    with pytest.raises(ValueError, match=r"got a limit of 1000; raise BITBUDGET_WORKER_MEMORY_BYTES"):
        check_memory_limit(1000)


def test_every_allocator_fails_with_an_error_that_means_memory():
    """numpy, torch, ONNX Runtime and Python themselves, under a real limit, through the real mapping."""
    done = _python(
        """
from workers.child.limits import Limits, apply_limits
import numpy as np, onnx, onnxruntime, torch
from onnx import TensorProto, helper
from workers.failures import failure

node = helper.make_node("ConstantOfShape", ["shape"], ["out"])
graph = helper.make_graph(
    [node], "g",
    [helper.make_tensor_value_info("shape", TensorProto.INT64, [1])],
    [helper.make_tensor_value_info("out", TensorProto.FLOAT, [None])],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
session = onnxruntime.InferenceSession(model.SerializeToString())
apply_limits(Limits(2 * 1024**3, 1024**3, 3600, 10_000))
size = 4 * 1024**3
tries = [
    lambda: np.ones(size, np.uint8),
    lambda: torch.ones(size, dtype=torch.uint8),
    lambda: session.run(None, {"shape": np.array([size // 4])}),
    lambda: bytearray(size),
]
codes = []
for attempt in tries:
    try:
        attempt()
        codes.append("none")
    except Exception as error:
        codes.append(failure(error, "search", 2 * 1024**3).code)
print(*codes)
"""
    )
    assert done.stdout.split() == ["out_of_memory"] * 4, done.stderr


def test_the_limit_leaves_room_for_what_fits():
    done = _python(
        "from workers.child.limits import Limits, apply_limits\n"
        "apply_limits(Limits(1024**3, 1024**3, 60, 10_000))\n"
        "print(len(bytearray(512 * 1024**2)))"
    )
    assert done.stdout.strip() == str(512 * 1024**2)


def test_threads_are_as_configured_or_all():
    assert thread_count(3) == 3
    assert thread_count(None) >= 1


def test_the_worker_itself_does_not_load_torch():
    """Only its children do: the worker stays small, and starts fast."""
    done = _python(
        "import sys, workers.task, workers.app, workers.presence\n"
        "print([name for name in ('torch', 'onnx', 'numpy') if name in sys.modules])"
    )
    assert done.stdout.strip() == "[]", done.stderr
