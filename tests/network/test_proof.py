"""The proof finds what changes a network, and takes no rounding for a change."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from network.batching import Batching
from network.errors import ModelInvalid
from network.proof import Feed, Reference, feeds, first_change, unlike

RNG = np.random.default_rng(6)
node = helper.make_node


def floats(*shape: int) -> np.ndarray[Any, Any]:
    return RNG.normal(size=shape).astype(np.float32)


X = {"x": floats(8, 4)}
W = floats(4, 3)


def made(
    nodes: list[onnx.NodeProto],
    outputs: list[str],
    *,
    input_name: str = "x",
    shape: tuple[Any, ...] = ("N", 4),
    kinds: dict[str, int] | None = None,
    **constants: Any,
) -> bytes:
    arrays = {"W": W, **constants}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(input_name, TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, (kinds or {}).get(name, TensorProto.FLOAT), None) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return bytes(model.SerializeToString())


def reference(model: bytes, samples: Any = X) -> Reference:
    return Reference(model, feeds(samples, Batching()), 1)


LINEAR = node("MatMul", ["x", "W"], ["y"])
LOG = [node("MatMul", ["x", "W"], ["h"]), node("Abs", ["h"], ["a"])]


def test_a_file_equals_itself() -> None:
    model = made([LINEAR], ["y"])
    assert reference(model).difference(model) is None


def test_another_order_of_summation_is_rounding() -> None:
    wide = {"x": floats(8, 400)}
    halves = {"A": floats(200, 3), "B": floats(200, 3), "one": np.array([200]), "two": np.array([200])}
    both = np.concatenate([halves["A"], halves["B"]])
    whole = made([node("MatMul", ["x", "C"], ["y"])], ["y"], shape=("N", 400), C=both)
    parts = made(
        [
            node("Split", ["x"], ["p", "q"], axis=1, num_outputs=2),
            node("MatMul", ["p", "A"], ["a"]),
            node("MatMul", ["q", "B"], ["b"]),
            node("Add", ["a", "b"], ["y"]),
        ],
        ["y"],
        shape=("N", 400),
        **halves,
    )
    assert reference(whole, wide).difference(parts) is None


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (made([LINEAR], ["y"], W=W * np.float32(1.001)), "output 'y' is .* in place of .* on the first sample"),
        (made([node("MatMul", ["x", "W"], ["z"])], ["z"]), "the outputs are 'z' of .* in place of 'y'"),
        (made([LINEAR, node("Relu", ["y"], ["z"])], ["y", "z"]), "the outputs are 'y'.*'z'"),
        (made([node("MatMul", ["u", "W"], ["y"])], ["y"], input_name="u"), "the inputs are 'u'"),
        (
            made([node("MatMul", ["x", "W"], ["h"]), node("Cast", ["h"], ["y"], to=11)], ["y"], kinds={"y": 11}),
            r"of tensor\(double\) in place of",
        ),
        (made([node("Gemm", ["x", "W"], ["y"])], ["y"], W=W.T.copy()), "ONNX Runtime does not"),
        (
            made([node("MatMul", ["x", "W"], ["h"]), node("Unsqueeze", ["h", "a"], ["y"])], ["y"], a=np.array([1])),
            r"has the shape \[1, 1, 3\] in place of \[1, 3\]",
        ),
    ],
)
def test_a_change_is_told(changed: bytes, says: str) -> None:
    why = reference(made([LINEAR], ["y"])).difference(changed)
    assert why is not None
    assert re.search(says, why), why


def test_a_change_that_only_an_edge_sample_shows() -> None:
    """log(|x W| + 1e-10) without its epsilon."""
    uploaded = made([*LOG, node("Add", ["a", "e"], ["b"]), node("Log", ["b"], ["y"])], ["y"], e=np.float32(1e-10))
    changed = made([*LOG, node("Log", ["a"], ["y"])], ["y"])
    why = reference(uploaded).difference(changed)
    assert why == "output 'y' is NaN or infinite at other places on zeros"


def test_a_change_in_a_small_channel_beside_a_large_one() -> None:
    scale = np.array([1e4, 1e4, 1], np.float32)
    wrong = np.array([1e4, 1e4, 1.01], np.float32)
    nodes = [node("MatMul", ["x", "W"], ["h"]), node("Mul", ["h", "k"], ["y"])]
    uploaded = made(nodes, ["y"], k=scale)
    assert reference(uploaded).difference(made(nodes, ["y"], k=wrong)) is not None


def test_a_change_that_only_several_samples_show() -> None:
    """A batch axis that became 1."""
    uploaded = made([LINEAR], ["y"])
    changed = made([node("MatMul", ["x", "W"], ["h"]), node("Reshape", ["h", "s"], ["y"])], ["y"], s=np.array([1, 3]))
    assert "ONNX Runtime does not run the network" in str(reference(uploaded).difference(changed))


def test_free_axes_count() -> None:
    uploaded = made([LINEAR], ["y"], shape=("N", 4))
    fixed = made([LINEAR], ["y"], shape=(1, 4))
    one = Reference(uploaded, [Feed("a sample", {"x": X["x"][:1]})], 1)
    assert one.difference(uploaded) is None
    assert one.difference(fixed) == "other axes of 'x' are free"
    assert (
        Reference(fixed, [Feed("a sample", {"x": X["x"][:1]})], 1).difference(uploaded) == "other axes of 'x' are free"
    )


def test_an_axis_of_length_0_may_become_free() -> None:
    empty, free = (made([LINEAR], ["y"], shape=(length, 4)) for length in (0, "N"))
    assert Reference(empty, [Feed("no sample", {"x": X["x"][:0]})], 1).difference(free) is None


def test_an_edge_that_the_file_fails_on_is_left_out_and_a_sample_is_not() -> None:
    model = made(
        [node("Cast", ["x"], ["i"], to=TensorProto.INT64), node("Gather", ["W", "i"], ["y"])], ["y"], shape=("N", 1)
    )
    inside = {"x": np.array([[0], [1], [2], [3]], np.float32)}
    below = {"x": np.array([[1], [-9], [1], [9]], np.float32)}
    assert [feed.edge for feed in reference(model, inside).feeds] == [False, False, True, True, True]
    with pytest.raises(ModelInvalid, match="does not run the network"):
        reference(model, below)
    part = reference(model, {"x": np.concatenate([inside["x"], np.array([[9]], np.float32)])})
    assert [feed.name for feed in part.feeds][-2:] == ["zeros", "the smallest values of the samples"]
    assert part.difference(model) is None


def test_integers_stay_within_what_the_samples_hold() -> None:
    samples = {"i": np.array([[3], [5], [7]]), "f": np.array([[2], [3], [4]], np.float32)}
    edges = {feed.name: feed.arrays for feed in feeds(samples, Batching()) if feed.edge}
    assert edges["zeros"]["i"] == 3
    assert edges["zeros"]["f"] == 0
    assert edges["the largest values of the samples"]["i"] == 7
    assert edges["the smallest values of the samples"]["f"] == 2


def test_a_fixed_batch_is_filled() -> None:
    given = feeds({"x": floats(3, 4), "state": floats(3, 2)}, Batching({"state": 1}, {}, 4))
    assert {feed.arrays["x"].shape for feed in given} == {(4, 4)}
    assert {feed.arrays["state"].shape for feed in given} == {(2, 4)}


class TestUnlike:
    def test_nan_and_infinity_have_their_places(self) -> None:
        one = np.array([np.nan, np.inf, -np.inf, 1], np.float32)
        assert unlike(one, one.copy(), []) is None
        for position, value in ((0, 0), (1, -np.inf), (3, np.nan)):
            other = one.copy()
            other[position] = value
            assert unlike(one, other, []) == "is NaN or infinite at other places"
            assert unlike(one, other, [other]) is None  # where rounding makes the difference, it says nothing

    def test_integers_may_flip_in_a_tiny_share(self) -> None:
        one = np.zeros(5000, np.int64)
        few, many = one.copy(), one.copy()
        few[:5], many[:10] = 1, 1
        assert unlike(one, few, []) is None
        assert unlike(one, many, []) == "differs in 0.20% of its elements"
        assert unlike(one, many, [many]) is None

    def test_the_rounding_of_the_file_itself_excuses_some_more_of_it(self) -> None:
        one = floats(100)
        assert unlike(one, one + np.float32(2e-3), []) is not None
        assert unlike(one, one + np.float32(2e-3), [one + np.float32(2e-4)]) is None
        assert unlike(one, one + np.float32(0.2), [one + np.float32(0.1)]) is not None

    def test_a_dead_channel_may_round(self) -> None:
        one = np.concatenate([floats(1, 100), np.zeros((1, 100), np.float32)])
        assert unlike(one, one + np.float32(1e-7), []) is None

    def test_scalars_and_nothing(self) -> None:
        assert unlike(np.float32(1), np.float32(1), []) is None
        assert unlike(np.array(1, np.float32), np.array(2, np.float32), []) == "is 2 in place of 1 at []"
        assert unlike(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32), []) is None


def test_the_first_node_that_changes() -> None:
    nodes = [node("MatMul", ["x", "W"], ["h"], "first"), node("Clip", ["h", "", "k"], ["c"], "second")]
    nodes += [node("Neg", ["c"], ["y"], "third")]
    before, after = (onnx.ModelProto.FromString(made(nodes, ["y"], k=np.float32(k))) for k in (0.1, 0.2))
    feed = feeds(X, Batching())[1]
    changed = first_change(before, after, feed, 1)
    assert changed is not None
    assert changed.name == "second"
    assert first_change(before, before, feed, 1) is None


@pytest.mark.parametrize("low", [-1e9, np.finfo(np.float32).min])
def test_what_a_mask_hides_excuses_nothing_beside_it(low: float) -> None:
    """The lowest number of float32 has no double either."""
    masked = np.array([[low, low, low, 1.0, 0.5], [low, 2.0, low, low, 1.0]], np.float32)
    assert unlike(masked, masked.copy(), [masked * np.float32(0.9999999)]) is None
    for place, value in (((0, 3), 1.01), ((1, 4), 0.0), ((0, 0), -low), ((1, 0), 0.0)):
        changed = masked.copy()
        changed[place] = value
        assert unlike(masked, changed, [masked]) is not None


def test_large_numbers_alone_are_no_mask() -> None:
    large = np.array([[1e9, 3e8, 2e9, 2e7, 0]], np.float32)
    assert unlike(large, large + np.float32(150), [large]) is None
