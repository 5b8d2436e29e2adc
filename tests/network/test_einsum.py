"""Einsum with weights becomes MatMul: the same outputs in ONNX Runtime, weights stored once, free lengths free."""

from __future__ import annotations

import time

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from network.einsum import EinsumToMatMul, Equation, NotAnEquation, parse
from network.errors import ModelInvalid
from network.graph import Network
from network.normalise import normalise
from tests.network.models import build, refusal, value

# equation, shape of x, of the weight, how the weight is stored; x comes first
PRODUCTS = {
    "ij,jk": ((3, 5), (5, 4), (5, 4)),
    "ij,jk->ik": ((3, 5), (5, 4), (5, 4)),
    "ij,kj->ik": ((3, 5), (4, 5), (5, 4)),
    "ij,jk->ki": ((3, 5), (5, 4), (5, 4)),
    " b i j , k j -> b i k ": ((3, 2, 5), (4, 5), (5, 4)),
    "bij,kj->bki": ((3, 2, 5), (4, 5), (5, 4)),
    "bld,dhk->blhk": ((3, 2, 5), (5, 4, 6), (5, 24)),
    "bld,hdk->bhlk": ((3, 2, 5), (4, 5, 6), (5, 24)),
    "bhk,hkd->bd": ((3, 4, 6), (4, 6, 5), (24, 5)),
    "bkh,hkd->bd": ((3, 6, 4), (4, 6, 5), (24, 5)),
    "bhk,hkd->bhd": ((3, 4, 6), (4, 6, 5), (4, 6, 5)),
    "bhk,hdk->bhd": ((3, 4, 6), (4, 5, 6), (4, 6, 5)),
    "bghk,hgdk->bghd": ((3, 2, 4, 6), (4, 2, 5, 6), (4, 2, 6, 5)),
    "becd,edh->bech": ((3, 4, 2, 5), (4, 5, 6), (4, 5, 6)),
    "becd,ehd->bech": ((3, 4, 2, 5), (4, 6, 5), (4, 5, 6)),
    "bce d,edh->bech": ((3, 2, 4, 5), (4, 5, 6), (4, 5, 6)),
    "...d,dh->...h": ((3, 2, 2, 5), (5, 4), (5, 4)),
    "...d,dhk->...hk": ((3, 2, 5), (5, 4, 2), (5, 8)),
    "...ed,edh->...eh": ((3, 2, 4, 5), (4, 5, 6), (4, 5, 6)),
    "Bq,qZ->BZ": ((3, 5), (5, 4), (5, 4)),
    "ed,edh->eh": ((4, 5), (4, 5, 6), (4, 5, 6)),
}
LEFT_ALONE = {
    "bld,d->bl": ((3, 2, 5), (5,)),
    "bhk,hk->bh": ((3, 4, 6), (4, 6)),
    "bd,hk->bdhk": ((3, 5), (4, 6)),
    "bld,dh->bh": ((3, 2, 5), (5, 4)),
    "bd,dhk->bh": ((3, 5), (5, 4, 6)),
    "bii,ij->bj": ((3, 5, 5), (5, 4)),
    "bi,jj->bi": ((3, 5), (5, 5)),
    "bld,dh->blh": ((3, 2, 5), (1, 4)),
}


def model(equation: str, x: tuple[int, ...], weights: dict[str, np.ndarray], inputs: list[str]) -> onnx.ModelProto:
    """`x` with its first axis free, Einsum, and a MatMul behind so that something can be quantized."""
    nodes = [
        helper.make_node("Einsum", inputs, ["e"], name="einsum", equation=equation),
        helper.make_node("ReduceMax", ["e"], ["m"], keepdims=0),
        helper.make_node("Reshape", ["m", "shape"], ["r"]),
        helper.make_node("MatMul", ["r", "last"], ["s"], name="behind"),
    ]
    constants = {"shape": np.array([1, 1]), "last": np.ones((1, 2), np.float32)}
    return build(nodes, [value("x", ["n", *x[1:]])], [value("s", [1, 2]), value("e", None)], weights | constants)


def made(equation: str, x: tuple[int, ...], weights: dict[str, np.ndarray], inputs: list[str]) -> Network:
    """The normalised network, proved to give the same."""
    before = model(equation, x, weights, inputs)
    network = normalise(before, {"x": x[1:]})
    for count in (x[0], 7) if equation[0] != "e" else (x[0],):
        fed = {"x": np.random.default_rng(2).normal(size=(count, *x[1:])).astype(np.float32)}
        expected, results = (run(proto, fed) for proto in (before, network.proto))
        for one, other in zip(expected, results, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    return network


def run(proto: onnx.ModelProto, fed: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, fed))


def operators(network: Network) -> list[str]:
    return [node.op_type for node in network.proto.graph.node]


# the order of an output that is not said depends on the labels alone
@pytest.mark.parametrize(
    ("equation", "weight_first"),
    [(equation, first) for equation in PRODUCTS for first in (False, True) if "->" in equation or not first],
)
def test_a_product_becomes_matmul(equation: str, weight_first: bool) -> None:
    x, shape, stored = PRODUCTS[equation]
    left, _, out = equation.partition("->")
    if weight_first:
        equation = ",".join(reversed(left.split(","))) + "->" + out
    weight = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    network = made(equation, x, {"w": weight}, ["w", "x"] if weight_first else ["x", "w"])
    assert "Einsum" not in operators(network)
    site = next(site for site in network.sites if site.weight == "w")
    assert site.shape == stored
    assert "einsum" in site.aliases
    assert [layer.op_type for layer in site.layers] == ["MatMul"]
    assert sum(tensor.name == "w" for tensor in network.proto.graph.initializer) == 1
    assert site.macs > 0


@st.composite
def products(draw: st.DrawFn) -> tuple[list[str], str, dict[str, list[int]]]:
    """The names of the operands in order, an equation of samples s, a stack e, what is summed k and rows m, each of
    several labels, and the operands' shapes."""
    groups = {"s": "abc", "e": "de", "k": "Kl", "m": "mNo"}
    least = {"s": 0, "e": 0, "k": 1, "m": 1}
    labels = {kind: names[: draw(st.integers(least[kind], len(names)))] for kind, names in groups.items()}
    lengths = {name: draw(st.integers(1, 4)) for names in labels.values() for name in names}
    x, weight, out = (
        "".join(draw(st.permutations("".join(labels[kind] for kind in kinds)))) for kinds in ("sek", "ekm", "sem")
    )
    terms = {"x": x, "w": weight}
    names = draw(st.permutations(["x", "w"]))
    shapes = {name: [lengths[label] for label in term] for name, term in terms.items()}
    return names, f"{terms[names[0]]},{terms[names[1]]}->{out}", shapes


@given(products())
@settings(max_examples=80, deadline=None)
def test_any_product_gives_what_einsum_gives(case: tuple[list[str], str, dict[str, list[int]]]) -> None:
    names, equation, shapes = case
    rng = np.random.default_rng(1)
    operands = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    node = helper.make_node("Einsum", names, ["y"], equation=equation)
    before = build([node], [value("x", shapes["x"])], [value("y", None)], {"w": operands["w"]})
    graph = ir.serde.deserialize_model(before)
    EinsumToMatMul()(graph)
    after = ir.serde.serialize_model(graph)
    assert [node.op_type for node in after.graph.node].count("MatMul") == 1
    (expected,), (result,) = (run(proto, {"x": operands["x"]}) for proto in (before, after))
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("equation", LEFT_ALONE)
def test_what_is_no_product_stays(equation: str) -> None:
    x, shape = LEFT_ALONE[equation]
    network = made(equation, x, {"w": np.ones(shape, np.float32)}, ["x", "w"])
    assert "Einsum" in operators(network)


def test_several_weights_are_one_product_after_the_other() -> None:
    rng = np.random.default_rng(1)
    weights = {"a": rng.normal(size=(5, 2)).astype(np.float32), "b": rng.normal(size=(2, 6)).astype(np.float32)}
    network = made("bld,dr,rh->blh", (3, 2, 5), weights, ["x", "a", "b"])
    assert "Einsum" not in operators(network)
    assert {site.weight for site in network.sites} == {"a", "b", "last"}


@pytest.mark.parametrize(
    ("first", "second", "shape", "turned", "left"),
    [
        ("bj,kj->bk", "bj,kj->bk", (5, 5), 0, 0),  # the weight is arranged for both
        ("bj,kj->bk", "bj,jk->bk", (5, 5), 1, 0),  # one reads it turned
        ("bj,jhk->bhk", "bhk,jhk->bj", (6, 2, 3), 0, 2),  # no order of axes is enough
    ],
)
def test_a_weight_of_two_products_is_stored_once(
    first: str, second: str, shape: tuple[int, ...], turned: int, left: int
) -> None:
    weight = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    nodes = [
        helper.make_node("Einsum", ["x", "w"], ["h"], equation=first),
        helper.make_node("Einsum", ["h", "w"], ["e"], equation=second),
        helper.make_node("MatMul", ["e", "last"], ["y"]),
    ]
    weights = {"w": weight, "last": np.eye(shape[0], 2, dtype=np.float32)}
    before = build(nodes, [value("x", ["n", shape[0]])], [value("y", ["n", 2])], weights)
    network = normalise(before, {"x": shape[:1]})
    assert operators(network).count("Einsum") == left
    assert operators(network).count("Transpose") == turned
    assert sum(site.weight == "w" for site in network.sites) == (0 if left else 1)
    floats = [tensor.name for tensor in network.proto.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT]
    assert sorted(floats) == ["last", "w"]
    fed = {"x": np.random.default_rng(2).normal(size=(3, shape[0])).astype(np.float32)}
    np.testing.assert_allclose(run(before, fed)[0], run(network.proto, fed)[0], rtol=1e-4, atol=1e-4)


def test_a_head_that_is_tied_to_the_embedding() -> None:
    nodes = [
        helper.make_node("Gather", ["w", "i"], ["h"]),
        helper.make_node("Einsum", ["h", "w"], ["y"], equation="bld,vd->blv"),
    ]
    weight = np.random.default_rng(1).normal(size=(9, 5)).astype(np.float32)
    before = build(nodes, [value("i", ["n", 4], onnx.TensorProto.INT64)], [value("y", ["n", 4, 9])], {"w": weight})
    network = normalise(before, {"i": (4,)})
    (site,) = network.sites
    assert (site.weight, site.channel_axis, len(site.layers)) == ("w", 0, 2)
    fed = {"i": np.arange(8).reshape(2, 4)}
    np.testing.assert_allclose(run(before, fed)[0], run(network.proto, fed)[0], rtol=1e-4, atol=1e-5)


def test_einsum_in_an_inner_graph() -> None:
    def branch(name: str) -> onnx.GraphProto:
        node = helper.make_node("Einsum", ["x", "w"], [f"{name}_y"], equation="bj,kj->bk")
        return helper.make_graph([node], name, [], [value(f"{name}_y", ["n", 4])])

    nodes = [
        helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
        helper.make_node("Greater", ["m", "zero"], ["c"]),
        helper.make_node("If", ["c"], ["h"], then_branch=branch("a"), else_branch=branch("b")),
        helper.make_node("MatMul", ["h", "last"], ["y"]),
    ]
    weights = {"w": np.arange(20, dtype=np.float32).reshape(4, 5), "last": np.eye(4, 2, dtype=np.float32)}
    constants = {"zero": np.zeros((), np.float32)}
    before = build(nodes, [value("x", ["n", 5])], [value("y", ["n", 2])], weights | constants)
    network = normalise(before, {"x": (5,)})
    fed = {"x": np.arange(15, dtype=np.float32).reshape(3, 5)}
    np.testing.assert_allclose(run(before, fed)[0], run(network.proto, fed)[0], rtol=1e-5)
    assert b"Einsum" not in network.proto.SerializeToString()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ij,jk", Equation(("ij", "jk"), "ik")),
        ("b...d, dh -> b...h", Equation(("b.d", "dh"), "b.h")),
        ("...i,...i", Equation((".i", ".i"), ".")),
        ("ii", Equation(("ii",), "")),
        ("ij->", Equation(("ij",), "")),
        ("Zb,bA", Equation(("Zb", "bA"), "AZ")),
    ],
)
def test_equations(text: str, expected: Equation) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *(
            "a.b,a.b->a",
            "...i.j,jk",
            "....,a->a",
            "......->",
            "a->b",
            "a->aa",
            "a->a->a",
            "a1,b->ab",
            "ä,b",
            "." * 5000,
        ),
        *("a" * 5000 + ".", ",".join(["ab"] * 5000) + "->c", "ab->" + "ab" * 5000),
    ],
)
def test_what_is_no_equation_is_told_at_once(text: str) -> None:
    begun = time.process_time()
    assert isinstance(parse(text), NotAnEquation)
    assert time.process_time() - begun < 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a.b,a.b->a", "is no term"),
        ("ab,bc,cd->ad", "is about 3 operands, and the node has 2"),
        ("ab,bc->" + "a" * 500, "the output has 'a' 500 times"),
    ],
)
@pytest.mark.parametrize("place", ["graph", "function", "attribute"])
def test_admission_refuses_equations_that_mean_nothing(text: str, reason: str, place: str) -> None:
    """Inference, of ONNX and of ONNX Runtime, never comes back from the first."""
    einsum = helper.make_node("Einsum", ["x", "x"], ["e"], equation=text)
    functions, domains, call = [], {}, einsum
    if place != "graph":
        body = helper.make_node("Einsum", ["x", "x"], ["e"], equation=text)
        if place == "attribute":
            body.attribute[0].CopyFrom(onnx.AttributeProto(name="equation", type=3, ref_attr_name="text"))
        imports = [helper.make_opsetid("", 18)]
        functions = [helper.make_function("own", "F", ["x"], ["e"], [body], imports, attributes=["text"])]
        domains, call = {"own": 1}, helper.make_node("F", ["x"], ["e"], domain="own", text=text)
    nodes = [call, helper.make_node("MatMul", ["x", "w"], ["y"])]
    weights = {"w": np.eye(4, dtype=np.float32)}
    model = build(nodes, [value("x", ["n", 4])], [value("y", ["n", 4])], weights, functions=functions, domains=domains)
    begun = time.process_time()
    assert reason in refusal(model, ModelInvalid)
    assert time.process_time() - begun < 5
