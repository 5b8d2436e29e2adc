"""Networks in other float types compute in float32, and keep their interface."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from network.admission import admit
from network.errors import NothingToQuantize
from network.faithful import faithful, undone
from network.graph import Network
from network.normalise import dump, load
from network.widening import weight_types, widened
from tests.network.float_types import converted, with_casts
from tests.network.models import LIMITS, build, linear, value

RNG = np.random.default_rng(4)
HALF, WIDE, BRAIN = TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16
node = helper.make_node


def floats(*shape: int) -> np.ndarray[Any, Any]:
    return RNG.normal(size=shape).astype(np.float32)


LINEAR = linear(W=floats(4, 3), b=floats(3))


def run(model: ModelProto | bytes, **arrays: Any) -> list[Any]:
    data = model if isinstance(model, bytes) else model.SerializeToString()
    return list(onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, arrays))


def brought(model: ModelProto, **samples: Any) -> Network:
    data = model.SerializeToString()
    return faithful(data, admit(data, LIMITS), samples, {name: array.shape[1:] for name, array in samples.items()})


@pytest.mark.parametrize(("type_", "numpy", "tolerance"), [(HALF, "float16", 1e-2), (WIDE, "float64", 1e-6)])
def test_the_interface_stays_and_the_inside_is_float32(type_: int, numpy: str, tolerance: float) -> None:
    model = converted(LINEAR, type_)
    x = floats(6, 4).astype(numpy)
    network = brought(model, x=x)
    (expected,), (result,) = run(model, x=x), run(dump(network), x=x)
    assert result.dtype == expected.dtype == x.dtype
    assert np.allclose(result, expected, rtol=tolerance, atol=tolerance)
    assert [site.weight for site in network.sites] == ["W"]
    assert network.weight("W").dtype == np.float32
    assert undone(network) is None
    assert network.of_halves is (type_ == HALF)


def test_what_came_in_16_bits_fits_into_them_again() -> None:
    network = brought(converted(LINEAR, HALF), x=floats(6, 4).astype(np.float16))
    assert network.narrow == {"W", "b"}
    assert load(dump(network)).narrow == {"W", "b"}
    assert b"of_halves" not in network.proto.SerializeToString()
    assert brought(LINEAR, x=floats(6, 4)).narrow == set()


def test_what_is_computed_from_a_weight_of_16_bits_is_no_such_number() -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("BatchNormalization", ["c", "s", "b", "m", "v"], ["y"]),
    ]
    statistics = {name: np.abs(floats(2)) + 0.5 for name in "sbmv"}
    model = build(nodes, [value("x", ["N", 3, 4, 4])], [value("y", None)], {"w": floats(2, 3, 3, 3), **statistics})
    network = brought(converted(model, HALF), x=floats(6, 3, 4, 4).astype(np.float16))
    assert [site.op_type for site in network.layers()] == ["Conv"]
    assert "w" not in network.narrow


@pytest.mark.parametrize("type_", [HALF, BRAIN])
def test_a_cast_behind_a_weight_is_part_of_how_it_is_stored(type_: int) -> None:
    x = floats(6, 4)
    model = with_casts(LINEAR, type_)
    network = brought(model, x=x)
    assert len(network.sites) == 1
    assert network.narrow == {network.sites[0].weight, *(set(network.initializers) - {network.sites[0].weight})}
    assert not [node for node in network.proto.graph.node if node.op_type == "Cast"]
    assert np.allclose(run(dump(network), x=x)[0], run(model, x=x)[0], atol=1e-6)


def test_bodies_and_outputs_that_no_node_makes() -> None:
    """Weights in the branches of an If; an input and a constant that are outputs; two outputs of one name."""

    def branch(name: str) -> onnx.GraphProto:
        weight = numpy_helper.from_array(floats(3, 3).astype(np.float16), f"W{name}")
        made = [node("MatMul", ["h", f"W{name}"], [name])]
        return helper.make_graph(made, name, [], [value(name, ["N", 3], HALF)], [weight])

    nodes = [
        node("MatMul", ["x", "W"], ["h"], "mul"),
        node("If", ["c"], ["y"], "if", then_branch=branch("one"), else_branch=branch("two")),
    ]
    model = build(
        nodes,
        [value("x", ["N", 4], HALF), value("c", [], TensorProto.BOOL)],
        [value("y", ["N", 3], HALF), value("W", [4, 3], HALF), value("x", ["N", 4], HALF), value("h", ["N", 3], HALF)],
        {"W": floats(4, 3).astype(np.float16)},
    )
    x, c = floats(6, 4).astype(np.float16), np.array(True)
    wide = widened(model, weight_types(model))
    onnx.checker.check_model(wide, full_check=True)
    for expected, result in zip(run(model, x=x, c=c), run(wide, x=x, c=c), strict=True):
        assert result.dtype == expected.dtype
        assert np.allclose(result, expected, rtol=1e-2, atol=1e-2)
    inside = [tensor for graph in (wide.graph, wide.graph.node[2].attribute[0].g) for tensor in graph.initializer]
    assert [tensor.data_type for tensor in inside if tensor.name != "W"] == [TensorProto.FLOAT] * 2


def test_a_mask_of_the_lowest_float64_stays_finite() -> None:
    model = converted(linear(b=np.full(3, -1, np.float32)), WIDE)
    tensor = model.graph.initializer[1]
    tensor.CopyFrom(numpy_helper.from_array(np.full(3, np.finfo(np.float64).min), "b"))
    (mask,) = (numpy_helper.to_array(t) for t in widened(model, {WIDE}).graph.initializer if t.name == "b")
    assert (mask == np.finfo(np.float32).min).all()


def test_a_scale_of_float64_beside_float32_is_left_alone() -> None:
    nodes = [
        node("MatMul", ["x", "W"], ["h"]),
        node("Cast", ["h"], ["d"], to=WIDE),
        node("Mul", ["d", "s"], ["m"]),
        node("Cast", ["m"], ["y"], to=TensorProto.FLOAT),
    ]
    weights = {"W": floats(4, 3), "s": np.array([3.0])}
    assert weight_types(build(nodes, [value("x", ["N", 4])], [value("y", ["N", 3])], weights)) == set()


def test_what_needs_its_digits_stays_and_the_reason_is_told() -> None:
    """Times since an epoch, of which float64 alone has the seconds."""
    nodes = [
        node("Sub", ["x", "epoch"], ["d"]),
        node("MatMul", ["d", "W"], ["y"]),
    ]
    weights = {"W": floats(4, 3).astype(np.float64), "epoch": np.array(1.7e9)}
    model = build(nodes, [value("x", ["N", 4], WIDE)], [value("y", ["N", 3], WIDE)], weights)
    with pytest.raises(NothingToQuantize, match=r"weights of type double stay so, because in float32 output 'y' is"):
        brought(model, x=1.7e9 + RNG.uniform(0, 60, (6, 4)))


def test_values_beyond_16_bits_are_numbers_in_float32() -> None:
    model = converted(linear(W=np.full((4, 3), 3e4, np.float32), b=floats(3)), HALF)
    x = np.array([[4, 4, 4, 4], [1e-2, 0, 0, 0]], np.float16)
    assert np.isinf(run(model, x=x)[0]).any()
    assert len(brought(model, x=x).sites) == 1
