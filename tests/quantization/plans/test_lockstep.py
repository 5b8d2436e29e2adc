"""Graphs that fix how many samples a run takes, in any of their inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from network.graph import Network
from network.normalise import from_proto
from quantization.plans.lockstep import Lockstep, affordable
from quantization.plans.sequential import Effort, round_plan


def two_inputs(first: int | str, second: int | str) -> Network:
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["a", "b"], ["s"], "add"),
            helper.make_node("MatMul", ["s", "w"], ["h"], "one"),
            helper.make_node("MatMul", ["h", "v"], ["y"], "two"),
        ],
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [d, 6]) for n, d in (("a", first), ("b", second))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.eye(6, dtype=np.float32), name) for name in ("w", "v")],
    )
    return from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)], ir_version=13))


def samples(count: int) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(2)
    return {name: rng.standard_normal((count, 6)).astype(np.float32) for name in ("a", "b")}


@pytest.mark.parametrize("fixed", [(4, 4), ("N", 4), (4, "N")])
def test_whole_batches_run_and_others_are_refused(fixed: tuple[int | str, int | str]) -> None:
    network = two_inputs(*fixed)
    assert [spec.shape[0] for spec in network.inputs] == [size if size == 4 else None for size in fixed]
    inputs = samples(12)
    # in either network one tensor of 6 numbers is alive at a cut
    assert affordable(network, inputs, 1 << 20, 1) == 12
    assert affordable(network, inputs, 9 * 2 * 24, 1) == 8
    assert affordable(network, inputs, 1, 1) == 4
    lockstep = Lockstep(network, inputs, {}, batch=4, threads=1)
    list(lockstep.advance(2, {}))
    found = np.concatenate([exact for _, exact in lockstep.pairs("h")])
    np.testing.assert_allclose(found, inputs["a"] + inputs["b"], rtol=1e-6)
    assert Lockstep(network, samples(4), {}, batch=64, threads=1).batches == 1
    with pytest.raises(ValueError, match="takes exactly 4 samples in a run; got batches of 64, give 4"):
        Lockstep(network, inputs, {}, batch=64, threads=1)
    for count in (3, 10):
        for refused in (
            lambda count=count: affordable(network, samples(count), 1 << 20, 1),
            lambda count=count: Lockstep(network, samples(count), {}, batch=4, threads=1),
            lambda count=count: round_plan(network, {}, samples(count), {}, Effort(threads=1)),
        ):
            with pytest.raises(ValueError, match=f"in a run; got {count}, give a multiple of 4"):
                refused()


def test_a_free_batch_takes_any_number() -> None:
    network = two_inputs("N", "N")
    assert affordable(network, samples(7), 1 << 20, 1) == 7
    assert Lockstep(network, samples(7), {}, batch=4, threads=1).batches == 2
