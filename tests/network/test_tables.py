"""Tables of matrices: the product behind a Gather says which axis of the table is summed over."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from network.graph import Network
from network.normalise import normalise
from tests.network.models import build, value

EXPERTS, INPUTS, OUTPUTS = 4, 6, 5
node = helper.make_node
UP, DOWN = (EXPERTS, INPUTS, OUTPUTS), (EXPERTS, OUTPUTS, INPUTS)
# nodes from the picked matrices m [N, ...] and x [N, INPUTS] to y, shape of the table, its axis that is summed over
PRODUCTS: dict[str, tuple[list[onnx.NodeProto], tuple[int, ...], int | None]] = {
    "MatMul": ([node("Unsqueeze", ["x", "one"], ["u"]), node("MatMul", ["u", "m"], ["y"])], UP, -2),
    "MatMul with the matrix on the left": (
        [node("Unsqueeze", ["x", "two"], ["u"]), node("MatMul", ["m", "u"], ["y"])],
        DOWN,
        -1,
    ),
    "MatMul with the matrix turned": (
        [
            node("Transpose", ["m"], ["t"], perm=[0, 2, 1]),
            node("Unsqueeze", ["x", "one"], ["u"]),
            node("MatMul", ["u", "t"], ["y"]),
        ],
        DOWN,
        -1,
    ),
    "Einsum": ([node("Einsum", ["x", "m"], ["y"], equation="nk,nkm->nm")], UP, -2),
    "Einsum with the matrix first and turned": ([node("Einsum", ["m", "x"], ["y"], equation="nmk,nk->nm")], DOWN, -1),
    "an axis more": (
        [
            node("Unsqueeze", ["m", "one"], ["t"]),
            node("Unsqueeze", ["x", "onetwo"], ["u"]),
            node("MatMul", ["u", "t"], ["y"]),
        ],
        UP,
        -2,
    ),
    "nothing": ([node("Neg", ["m"], ["y"])], UP, None),
    "Einsum that sums over both": ([node("Einsum", ["x", "m"], ["y"], equation="nk,nkm->n")], UP, None),
    "several readers": (
        [node("Unsqueeze", ["x", "one"], ["u"]), node("MatMul", ["u", "m"], ["h"]), node("Sum", ["h", "m"], ["y"])],
        (EXPERTS, INPUTS, INPUTS),
        None,
    ),
}


def network(nodes: list[onnx.NodeProto], table: tuple[int, ...], axis: int = 0) -> Network:
    """x [N, INPUTS] and the index of an expert, by which a table's entry is picked along `axis`."""
    constants = {"one": np.array([1]), "two": np.array([2]), "onetwo": np.array([1, 2])}
    weights = {"w": np.random.default_rng(1).normal(size=table).astype(np.float32)}
    picked = [helper.make_node("Gather", ["w", "i"], ["m"], name="pick", axis=axis)]
    inputs = [value("x", ["N", INPUTS]), value("i", ["N"], onnx.TensorProto.INT64)]
    model = build([*picked, *nodes], inputs, [value("y", None)], weights | constants)
    return normalise(model, {"x": (INPUTS,), "i": ()})


@pytest.mark.parametrize("name", PRODUCTS)
def test_each_output_of_each_matrix_has_a_scale(name: str) -> None:
    nodes, table, reduced = PRODUCTS[name]
    (site,) = (site for site in network(nodes, table).sites if site.weight == "w")
    expected = 0 if reduced is None else (0, 1 if reduced == -1 else 2)
    assert site.channel_axis == expected
    assert site.macs == (0 if reduced is None else INPUTS * OUTPUTS)
    assert site.layers[0].stacked is (reduced is not None)


@pytest.mark.parametrize(
    ("table", "axis", "expected"),
    [
        ((9, 4), 0, 0),
        ((9, 4), 1, 1),
        ((9, 4), -2, 0),
        ((9, 4, 3), 0, 0),
        ((2, 9, 4), 1, (0, 1)),
        ((2, 4, 9), 2, (0, 2)),
        ((1, 9, 4), 1, 1),
        ((2, 9, 3, 4), 1, (0, 1, 2)),
    ],
)
def test_a_row_that_is_picked_has_a_scale(table: tuple[int, ...], axis: int, expected: int | tuple[int, ...]) -> None:
    (site,) = network([node("Neg", ["m"], ["y"])], table, axis).sites
    assert site.channel_axis == expected


def test_numbers_that_are_picked_are_no_weight() -> None:
    nodes = [node("Einsum", ["x", "m"], ["h"], equation="nk,n->nk"), node("MatMul", ["h", "last"], ["y"])]
    weights = {"w": np.ones(EXPERTS, np.float32), "last": np.ones((INPUTS, 2), np.float32)}
    inputs = [value("x", ["N", INPUTS]), value("i", ["N"], onnx.TensorProto.INT64)]
    model = build([node("Gather", ["w", "i"], ["m"]), *nodes], inputs, [value("y", None)], weights)
    assert [site.weight for site in normalise(model, {"x": (INPUTS,), "i": ()}).sites] == ["last"]
