"""A normalised network under an older opset computes what it did, or is refused with what stands in the way.

The oracles are ONNX Runtime and onnx's own checker and inference of shapes at that opset.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from network.errors import OpsetNotReachable
from network.execution import TorchNetwork
from network.normalise import dump, load, normalise
from network.opset import OLDEST_OPSET, TARGET_OPSET, lower
from tests.network.lowering import lowered

F, I64 = TensorProto.FLOAT, TensorProto.INT64
OPSETS = range(OLDEST_OPSET, TARGET_OPSET + 1)


def made(
    nodes: list[NodeProto] | NodeProto,
    inputs: dict[str, tuple[int, ...]] | None = None,
    constants: dict[str, NDArray[Any]] | None = None,
    elem_type: int = F,
    output: int = F,
    opset: int = TARGET_OPSET,
) -> ModelProto:
    """A graph with one output, the first of the last node, and the types and shapes of all its values."""
    nodes = nodes if isinstance(nodes, list) else [nodes]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(k, elem_type, shape) for k, shape in (inputs or {}).items()],
        [helper.make_tensor_value_info(nodes[-1].output[0], output, None)],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def computed(model: ModelProto) -> NDArray[Any]:
    """What ONNX Runtime computes of standard normal numbers, without changing the graph."""
    generator = np.random.default_rng(0)
    feeds = {
        value.name: generator.standard_normal([d.dim_value for d in value.type.tensor_type.shape.dim]).astype("f4")
        for value in model.graph.input
    }
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feeds)[0])


node = helper.make_node
X = {"x": (1, 2, 6, 5)}
SCALE, ZERO = np.float32(0.05), np.uint8(120)
QDQ = {"s": np.array(SCALE), "z": np.array(ZERO)}


def dequantized(**attributes: int) -> list[NodeProto]:
    return [
        node("QuantizeLinear", ["x", "s", "z"], ["q"], **attributes),
        node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]


def if_node(inner: NodeProto) -> NodeProto:
    """Both branches are the one node, which reads a value from outside."""
    branch = helper.make_graph([inner], "branch", [], [helper.make_tensor_value_info("inner", F, None)])
    return node("If", ["condition"], ["y"], then_branch=branch, else_branch=branch, name="if")


GRID = {**X, "g": (1, 3, 4, 2)}
DFT = {"x": (2, 8, 4, 1)}
SAME = {
    "saturate": made(dequantized(saturate=0), X, QDQ),
    "block_size": made(dequantized(block_size=0), X, QDQ),
    "output_dtype": made(dequantized(output_dtype=TensorProto.UINT8), X, QDQ),
    "precision": made(dequantized(precision=F), X, QDQ),
    "output_dtype without zero point": made(
        [
            node("QuantizeLinear", ["x", "s"], ["q"], output_dtype=TensorProto.UINT8),
            node("DequantizeLinear", ["q", "s"], ["y"]),
        ],
        X,
        QDQ,
    ),
    "dequantized to the scale's type": made(
        [node("QuantizeLinear", ["x", "s"], ["q"]), node("DequantizeLinear", ["q", "s"], ["y"], output_dtype=F)], X, QDQ
    ),
    "Cast": made(node("Cast", ["x"], ["y"], to=I64, saturate=1, round_mode="up"), X, output=I64),
    "dilations": made(node("AveragePool", ["x"], ["y"], kernel_shape=[2, 2], dilations=[1, 1]), X),
    "ceil_mode": made(node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1), X),
    "SAME": made(
        node("MaxPool", ["x"], ["y"], kernel_shape=[3, 2], strides=[2, 2], ceil_mode=1, auto_pad="SAME_UPPER"), X
    ),
    "Resize": made(
        node("Resize", ["x", "", "s"], ["y"], mode="linear", coordinate_transformation_mode="align_corners"),
        X,
        {"s": np.float32([1, 1, 2, 2])},
    ),
    "Pad": made(node("Pad", ["x", "p"], ["y"], mode="reflect"), X, {"p": np.array([0, 0, 1, 1, 0, 0, 1, 1])}),
    **{
        f"GridSample {m}": made(node("GridSample", ["x", "g"], ["y"], mode=m), GRID)
        for m in ("linear", "cubic", "nearest")
    },
    "GridSample": made(node("GridSample", ["x", "g"], ["y"]), GRID),
    "DFT": made(node("DFT", ["x"], ["y"]), DFT),
    "DFT axis": made(node("DFT", ["x", "", "a"], ["y"]), DFT, {"a": np.array(1)}),
    "DFT length": made(node("DFT", ["x", "n", "a"], ["y"], onesided=1), DFT, {"n": np.array(6), "a": np.array(-3)}),
    "If": made(if_node(node("GridSample", ["x", "g"], ["inner"], mode="cubic")), GRID, {"condition": np.array(True)}),
}


@pytest.mark.parametrize("opset", [18, 19, 20, 21, 23])
@pytest.mark.parametrize("name", SAME)
def test_what_is_taken_computes_the_same(name: str, opset: int) -> None:
    model = SAME[name]
    older = lowered(model, opset)
    assert [entry.version for entry in older.opset_import] == [opset]
    # kernels of older opsets add in another order
    np.testing.assert_allclose(computed(older), computed(model), rtol=1e-5, atol=1e-5)


REFUSED = {
    "AffineGrid": (
        made(node("AffineGrid", ["t", "size"], ["y"]), {"t": (2, 2, 3)}, {"size": np.array([2, 1, 4, 5])}),
        20,
        "AffineGrid is new in opset 20",
    ),
    "DeformConv": (
        made(node("DeformConv", ["x", "w", "o"], ["y"]), {**X, "w": (3, 2, 2, 2), "o": (1, 8, 5, 4)}),
        19,
        "DeformConv is new in opset 19",
    ),
    "TensorScatter": (
        made(node("TensorScatter", ["x", "x"], ["y"]), X),
        24,
        "TensorScatter is new in opset 24",
    ),
    "wrap": (
        made(node("Pad", ["x", "p"], ["y"], mode="wrap"), X, {"p": np.array([0, 0, 1, 1, 0, 0, 1, 1])}),
        19,
        "Pad with mode = wrap",
    ),
    "half_pixel_symmetric": (
        made(
            node("Resize", ["x", "", "s"], ["y"], coordinate_transformation_mode="half_pixel_symmetric"),
            X,
            {"s": np.float32([1, 1, 2, 2])},
        ),
        19,
        "Resize with coordinate_transformation_mode = half_pixel_symmetric",
    ),
    "dilations": (
        made(node("AveragePool", ["x"], ["y"], kernel_shape=[2, 2], dilations=[1, 2]), X),
        19,
        r"AveragePool with dilations = \[1, 2\]",
    ),
    "volume": (
        made(node("GridSample", ["x", "g"], ["y"]), {"x": (1, 2, 3, 4, 5), "g": (1, 2, 2, 2, 3)}),
        20,
        "GridSample of 3 spatial axes",
    ),
    "unknown rank": (
        made(node("GridSample", ["x", "g"], ["y"]), {"x": None, "g": None}),
        20,
        "GridSample of unknown rank",
    ),
    "bool": (
        made([node("Greater", ["x", "x"], ["b"]), node("ReduceMax", ["b"], ["y"])], X, output=TensorProto.BOOL),
        20,
        "ReduceMax with 'b' of type bool",
    ),
    "axis": (
        made([node("Size", ["x"], ["s"]), node("DFT", ["x", "", "s"], ["y"])], DFT),
        20,
        "DFT with an axis that is computed",
    ),
    "uint16": (
        made(dequantized(), X, {"s": np.array(SCALE), "z": np.array(9, np.uint16)}),
        21,
        "QuantizeLinear with 'z' of type uint16",
    ),
    "uint16 said": (
        made(
            [node("QuantizeLinear", ["x", "s"], ["y"], output_dtype=TensorProto.UINT16)],
            X,
            QDQ,
            output=TensorProto.UINT16,
        ),
        21,
        "QuantizeLinear with output_dtype = 4",
    ),
    "blocks": (
        made(
            node("DequantizeLinear", ["w", "s"], ["y"], block_size=2, axis=0),
            {},
            {"w": np.ones((4, 1), np.int8), "s": np.ones((2, 1), np.float32)},
        ),
        21,
        "DequantizeLinear with block_size = 2",
    ),
    "bfloat16": (
        made(node("Sin", ["x"], ["y"]), X, elem_type=TensorProto.BFLOAT16, output=TensorProto.BFLOAT16),
        22,
        "Sin with 'x' of type bfloat16",
    ),
    "another type": (
        made(
            [node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16), node("QuantizeLinear", ["h", "s", "z"], ["y"])],
            X,
            QDQ,
            output=TensorProto.UINT8,
        ),
        23,
        "QuantizeLinear with '[hs]' of type float",
    ),
    "window": (
        made(node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], strides=[3, 3], ceil_mode=1), X),
        22,
        "MaxPool with ceil_mode = 1 and windows that may start behind the input",
    ),
    "int2": (
        made(node("Cast", ["x"], ["y"], to=TensorProto.INT2), X, output=TensorProto.INT2),
        25,
        "Cast with 'y' of type int2",
    ),
    "in a branch": (
        made(if_node(node("TensorScatter", ["x", "x"], ["inner"])), X, {"condition": np.array(True)}),
        24,
        "TensorScatter is new in opset 24",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_an_older_opset_does_not_have_is_refused(name: str) -> None:
    model, oldest, says = REFUSED[name]
    before = model.SerializeToString()
    with pytest.raises(OpsetNotReachable, match=says) as refused:
        lower(model, oldest - 1)
    assert f"the network cannot have opset {oldest - 1}: " in str(refused.value)
    assert f"The oldest opset that it can have is {oldest}: set opset to {oldest} or above" in str(refused.value)
    assert model.SerializeToString() == before
    copy = ModelProto.FromString(before)
    lower(copy, oldest)
    assert copy.opset_import[0].version == oldest


def _refused(model: ModelProto) -> bool:
    """Whether onnx or ONNX Runtime does not take it; each has errors of several classes."""
    try:
        onnx.checker.check_model(model, full_check=True)
        computed(model)
    except Exception:
        return True
    return False


def test_the_older_opset_really_does_not_have_it() -> None:
    """Relabelled by hand, onnx's checker or ONNX Runtime refuses it."""
    for name, (model, oldest, _) in REFUSED.items():
        if name in ("unknown rank", "window", "volume", "wrap", "half_pixel_symmetric"):
            continue  # the older opset may have it, or ONNX Runtime takes more than the standard
        copy = ModelProto.FromString(model.SerializeToString())
        copy.opset_import[0].version = oldest - 1
        assert _refused(copy), name


def test_every_node_in_the_way_is_named_and_the_newest_of_them_decides() -> None:
    nodes = [node("TensorScatter", ["x", "x"], ["s"], name="scatter"), node("Gelu", ["s"], ["g"], name="gelu")]
    nodes += [node("AffineGrid", ["g", "size"], [f"h{i}"], name=f"grid{i}") for i in range(7)]
    with pytest.raises(OpsetNotReachable) as refused:
        lower(made(nodes, X), 18)
    assert str(refused.value) == (
        "the network cannot have opset 18: TensorScatter is new in opset 24 (node 'scatter'); AffineGrid is new in "
        "opset 20 (nodes 'grid0', 'grid1', 'grid2', 'grid3', 'grid4' and 2 more). The oldest opset that it can have is "
        "24: set opset to 24 or above, with a target that takes it, or export the network without these operators"
    )


def _inferred(model: ModelProto) -> list[int]:
    shape = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph.output[0].type.tensor_type.shape
    return [dim.dim_value for dim in shape.dim]


@pytest.mark.parametrize("dilation", [1, 2])
def test_windows_that_start_behind_the_input_are_refused_exactly_where_a_shape_may_change(dilation: int) -> None:
    for kernel, stride, begin, end in itertools.product((1, 2, 3), (1, 2, 3, 4), (0, 1), (0, 1, 2)):
        if max(begin, end) >= kernel:
            continue
        attributes = {"kernel_shape": [kernel], "strides": [stride], "pads": [begin, end], "dilations": [dilation]}
        changes = False
        for size in range(6, 6 + 2 * stride):
            pool = node("MaxPool", ["x"], ["y"], ceil_mode=1, **attributes)
            newest, older = (made(pool, {"x": (1, 1, size)}, opset=opset) for opset in (25, 21))
            changes |= _inferred(newest) != _inferred(older)
        if changes:
            with pytest.raises(OpsetNotReachable, match="may start behind the input"):
                lower(newest, 21)
        else:
            lower(newest, 21)


def test_nodes_of_other_domains_stay_as_they_are() -> None:
    model = made([node("Relu", ["x"], ["r"]), node("HardSwish", ["r"], ["y"])], X)
    model.graph.node[1].op_type, model.graph.node[1].domain = "Gelu", "com.microsoft"
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    lower(model, 18)
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": 18, "com.microsoft": 1}
    assert np.isfinite(computed(model)).all()


@pytest.mark.parametrize("opset", [17, 26])
def test_only_opsets_from_18_to_that_of_the_network_are_taken(opset: int) -> None:
    with pytest.raises(ValueError, match=rf"got opset {opset} .* expected 18 to 26 for a normalised network"):
        lower(made(node("Relu", ["x"], ["y"]), X), opset)


@pytest.mark.parametrize("opset", [17, 20, 27])
def test_only_normalised_networks_of_a_newer_opset_are_taken(opset: int) -> None:
    with pytest.raises(ValueError, match=rf"for a network of opset \[{opset}\]; expected"):
        lower(made(node("Relu", ["x"], ["y"]), X, opset=opset), 21)


def test_what_is_new_in_the_newest_opset_has_no_older_form() -> None:
    model = made(node("CumProd", ["x", "axis"], ["y"]), X, {"axis": np.array(1)}, opset=26)
    with pytest.raises(OpsetNotReachable, match=r"opset 25: CumProd is new in opset 26 .*can have is 26"):
        lower(model, 25)


@pytest.mark.parametrize("mode", range(4))
@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("mask", [None, np.float32, np.bool_])
def test_attention_returns_the_products_that_it_did_or_stays(mode: int, causal: int, mask: Any) -> None:
    """In those of mode 2 ONNX's function has -inf where ONNX Runtime has the lowest finite number."""
    inputs = ["x", "k", "v", *(["mask"] if mask else [])]
    attention = helper.make_node(
        "Attention", inputs, ["y", "", "", "products"], "a", is_causal=causal, qk_matmul_output_mode=mode
    )
    shape = (1, 2, 3, 4)
    keys = {name: np.random.default_rng(0).standard_normal(shape).astype("f4") for name in ("k", "v")}
    if mask:
        keys["mask"] = np.array([[1, 0, 1], [1, 1, 0], [0, 1, 1]], mask)
    model = made([attention, node("Identity", ["products"], ["z"])], {"x": shape}, keys, opset=23)
    expected = computed(model)
    if mode == 2 and (causal or mask is np.bool_):
        with pytest.raises(OpsetNotReachable, match=r"Attention is new in opset 23"):
            lower(model, 22)
        return
    lower(model, 22)
    np.testing.assert_allclose(computed(model), expected, rtol=1e-5)


def _convnet() -> ModelProto:
    """What normalisation meets: BatchNorm, a window with `ceil_mode`, a reshape, a linear layer, softmax."""
    generator = np.random.default_rng(1)
    shapes = {"w": (4, 2, 3, 3), "c": (4,), "fc": (36, 3)}
    constants = {name: generator.standard_normal(shape).astype("f4") for name, shape in shapes.items()}
    constants |= {"one": np.ones(4, "f4"), "to": np.array([0, -1])}
    nodes = [
        node("Conv", ["x", "w", "c"], ["a"], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["a", "one", "c", "c", "one"], ["b"]),
        node("HardSwish", ["b"], ["h"]),
        node("AveragePool", ["h"], ["p"], kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
        node("Reshape", ["p", "to"], ["f"]),
        node("MatMul", ["f", "fc"], ["m"]),
        node("Softmax", ["m"], ["y"]),
    ]
    return made(nodes, {"x": (2, 2, 6, 5)}, constants, opset=18)


def test_a_network_computes_the_same_at_every_opset() -> None:
    network = normalise(_convnet())
    stored = dump(network)
    inputs = {"x": torch.from_numpy(np.random.default_rng(0).standard_normal((2, 2, 6, 5)).astype("f4"))}
    [expected] = TorchNetwork(network).run(inputs)
    reference = computed(network.proto)
    ir_versions = {18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11, 24: 12, 25: 13}  # of the specification, Versioning.md
    for opset in OPSETS:
        loaded = load(stored, opset)
        assert (loaded.opset, loaded.proto.ir_version) == (opset, ir_versions[opset])
        assert dump(loaded) == dump(normalise(_convnet(), opset=opset))
        assert [site.name for site in loaded.sites] == [site.name for site in network.sites]
        onnx.checker.check_model(loaded.proto, full_check=True)
        # ONNX Runtime has a kernel for some opsets, and for others the operator's definition by other ones
        np.testing.assert_allclose(computed(loaded.proto), reference, rtol=1e-5)
        [result] = TorchNetwork(loaded).run(inputs)
        assert torch.equal(result, expected)


def test_types_inside_a_normalised_network_are_known() -> None:
    """So that what only newer versions take is found."""
    nodes = [
        node("MatMul", ["x", "w"], ["m"]),
        node("Greater", ["m", "x"], ["b"]),
        node("ReduceMax", ["b"], ["r"], keepdims=0),
        node("Cast", ["r"], ["y"], to=F),
    ]
    model = made(nodes, {"x": (5, 5)}, {"w": np.eye(5, dtype="f4") / 3})
    with pytest.raises(OpsetNotReachable, match=r"ReduceMax with '\w+' of type bool .* that it can have is 20"):
        normalise(model, opset=18)
    with pytest.raises(OpsetNotReachable, match="the network cannot have opset 19"):
        load(dump(normalise(model)), 19)
