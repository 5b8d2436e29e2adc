"""Old operators in their newer form: the same outputs in ONNX Runtime before and after, for every form that changed."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from network.errors import ModelNotTaken, ModelTooNew
from network.upgrade import _FORMS, _SAME, FIRST_OPSET, UPGRADED_OPSET, upgrade

RNG = np.random.default_rng(3)


def floats(*shape: int) -> np.ndarray[Any, Any]:
    return RNG.normal(size=shape).astype(np.float32)


X = floats(2, 4, 6, 6)
UP, DOWN, BOTH = ([1, 1, 2, 1.7], [1, 1, 0.6, 0.5], [1, 1, 1.7, 0.6])
PER_ELEMENT = (4, 6, 6)

# name: operator, opset, inputs (a tuple of an array is a constant), attributes
CASES: dict[str, tuple[str, int, list[Any], dict[str, Any]]] = {
    **{
        f"{op} {opset} axis {axis}": (op, opset, [X], {} if axis is None else {"axis": axis})
        for op in ("Softmax", "LogSoftmax", "Hardmax")
        for opset, axis in ((7, None), (9, 0), (10, 2), (11, -1), (11, -2), (12, 1), (12, 3))
    },
    **{
        f"Upsample {opset} {mode}": (
            "Upsample",
            opset,
            [X] if opset < 9 else [X, (np.array(UP, np.float32),)],
            {"mode": mode, **({"scales": UP} if opset < 9 else {})},
        )
        for opset in (7, 8, 9)
        for mode in ("nearest", "linear")
    },
    **{
        f"Resize 10 {mode} {scales}": ("Resize", 10, [X, (np.array(scales, np.float32),)], {"mode": mode})
        for mode in ("nearest", "linear")
        for scales in (UP, DOWN, BOTH)
    },
    **{
        f"Resize {opset} {transformation} {mode}": (
            "Resize",
            opset,
            [X, (np.zeros(0, np.float32),), (np.array(scales, np.float32),)],
            {"mode": mode, "coordinate_transformation_mode": transformation},
        )
        for opset in (11, 12)
        for transformation in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
        for mode, scales in (("nearest", BOTH), ("linear", BOTH), ("cubic", UP))
    },
    "Resize 11 sizes": (
        "Resize",
        11,
        [X, (np.zeros(0, np.float32),), (np.zeros(0, np.float32),), (np.array([2, 4, 9, 5]),)],
        {"mode": "nearest", "nearest_mode": "ceil"},
    ),
    "Resize 11 crop": (
        "Resize",
        11,
        [X, (np.array([0, 0, 0.1, 0.2, 1, 1, 0.8, 0.9], np.float32),), (np.array(UP, np.float32),)],
        {"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize"},
    ),
    **{
        f"Resize 11 half pixel of TensorFlow {scales}": (
            "Resize",
            11,
            [X, (np.zeros(0, np.float32),), (np.array(scales, np.float32),)],
            {"mode": "nearest", "coordinate_transformation_mode": "tf_half_pixel_for_nn", "nearest_mode": "floor"},
        )
        for scales in (UP, DOWN, [1, 1, 2, 2], [1, 1, 3, 0.5])
    },
    "Resize 11 half pixel of TensorFlow to the nearest": (
        "Resize",
        11,
        [X, (np.zeros(0, np.float32),), (np.zeros(0, np.float32),), (np.array([2, 4, 3, 2]),)],
        {"mode": "nearest", "coordinate_transformation_mode": "tf_half_pixel_for_nn"},
    ),
    "RoiAlign 10": (
        "RoiAlign",
        10,
        [X, (np.array([[0.4, 0.3, 4, 5], [1, 1, 3, 3]], np.float32),), (np.array([0, 1]),)],
        {"output_height": 3, "output_width": 2, "sampling_ratio": 2},
    ),
    "BatchNormalization 7 spatial": (
        "BatchNormalization",
        7,
        [X, *((np.abs(floats(4)) + 0.1,) for _ in range(4))],
        {"spatial": 1, "epsilon": 0.3},
    ),
    "BatchNormalization 8 per element": (
        "BatchNormalization",
        8,
        [X, *((np.abs(floats(*PER_ELEMENT)) + 0.1,) for _ in range(4))],
        {"spatial": 0, "epsilon": 0.3},
    ),
    "BatchNormalization 9": ("BatchNormalization", 9, [X, *((np.abs(floats(4)),) for _ in range(4))], {}),
    "Clip 7": ("Clip", 7, [X], {"min": -0.5, "max": 0.7}),
    "Clip 9 max": ("Clip", 9, [X], {"max": 0.1}),
    "Clip 10 min": ("Clip", 10, [X], {"min": 0.1}),
    "Clip 10 none": ("Clip", 10, [X], {}),
    "Dropout 7": ("Dropout", 7, [X], {"ratio": 0.5}),
    "Dropout 9 mask": ("Dropout", 9, [X], {"outputs": 2}),
    "Dropout 11 mask": ("Dropout", 11, [X], {"outputs": 2}),
    "Dropout 12 mask": ("Dropout", 12, [X], {"outputs": 2}),
    "Reshape 4": ("Reshape", 4, [X], {"shape": [2, -1, 3]}),
    "Reshape 1": ("Reshape", 1, [X], {"shape": [0, 0, 36]}),
    "Reshape 5": ("Reshape", 5, [X, (np.array([2, -1]),)], {}),
    "Clip 6": ("Clip", 6, [X], {"min": 0.1}),
    "Pad 2": ("Pad", 2, [X], {"pads": [0, 0, 1, 2, 0, 0, 0, 1], "value": 0.5}),
    "Split 2": ("Split", 2, [X], {"axis": 1, "split": [1, 3], "outputs": 2}),
    "Softmax 1": ("Softmax", 1, [X], {"axis": 2}),
    "Relu 6": ("Relu", 6, [X], {}),
    "Affine 7": ("Affine", 7, [X], {"alpha": 2.0, "beta": 0.5}),
    "Crop 7": ("Crop", 7, [X], {"border": [1, 2, 0, 1]}),
    "Crop 7 to a size": ("Crop", 7, [X], {"border": [1, 2, 0, 0], "scale": [3, 2]}),
    "ImageScaler 9": ("ImageScaler", 9, [X], {"scale": 2.0, "bias": [0.1, 0.2, 0.3, 0.4]}),
    "ParametricSoftplus 6": ("ParametricSoftplus", 6, [X], {"alpha": 2.0, "beta": 0.5}),
    "LayerNormalization 12": ("LayerNormalization", 12, [X, (floats(6),), (floats(6),)], {"epsilon": 0.3}),
    "Scale 7": ("Scale", 7, [X], {"scale": 0.5}),
    "ScaledTanh 7": ("ScaledTanh", 7, [X], {"alpha": 2.0, "beta": 0.5}),
    "ThresholdedRelu 1": ("ThresholdedRelu", 1, [X], {"alpha": 0.6}),
    "ThresholdedRelu 9": ("ThresholdedRelu", 9, [X], {}),
    "Dropout 10": ("Dropout", 10, [X], {"ratio": 0.5}),
    "Pad 9": ("Pad", 9, [X], {"pads": [0, 0, 1, 2, 0, 0, 0, 1], "value": 0.5}),
    "Pad 10 negative": ("Pad", 10, [X], {"pads": [0, 0, -1, 2, 0, 0, 0, -1]}),
    "Pad 8 reflect": ("Pad", 8, [X], {"pads": [0, 0, 1, 2, 0, 0, 0, 1], "mode": "reflect"}),
    "Slice 9": ("Slice", 9, [X], {"starts": [1, -4], "ends": [3, 1000], "axes": [1, 3]}),
    "Slice 7 first axes": ("Slice", 7, [X], {"starts": [0, 1], "ends": [2, -1]}),
    "Split 11": ("Split", 11, [X], {"axis": 1, "split": [1, 3]}),
    "Split 11 halves": ("Split", 11, [X], {"axis": 1}),
    "Split 13": ("Split", 13, [X, (np.array([3, 3]),)], {"axis": 2}),
    "Split 17 halves": ("Split", 17, [X], {"axis": -1}),
    "Squeeze 9": ("Squeeze", 9, [floats(2, 1, 3, 1)], {"axes": [1]}),
    "Squeeze 11 all": ("Squeeze", 11, [floats(1, 3, 1)], {}),
    "Unsqueeze 11": ("Unsqueeze", 11, [floats(2, 3)], {"axes": [0, -1]}),
    "TopK 9": ("TopK", 9, [X], {"k": 2, "axis": 1}),
    "TopK 10": ("TopK", 10, [X, (np.array([2]),)], {}),
    "Scatter 9": ("Scatter", 9, [X, (np.zeros((1, 1, 1, 2), np.int64),), floats(1, 1, 1, 2)], {"axis": 1}),
    "Scatter 10": ("Scatter", 10, [X, (np.zeros((1, 1, 1, 2), np.int64),), floats(1, 1, 1, 2)], {"axis": 1}),
    "OneHot 9": (
        "OneHot",
        9,
        [(np.array([0, 2, -1, 5]),), (np.array([3]),), (np.array([0, 1], np.float32),)],
        {},
    ),
    "Gemm 7": ("Gemm", 7, [floats(2, 3), (floats(4, 3),), (floats(4),)], {"transB": 1, "alpha": 0.5}),
    "PRelu 7": ("PRelu", 7, [X, (floats(4, 1, 1),)], {}),
    "MaxPool 8": ("MaxPool", 8, [X], {"kernel_shape": [3, 2], "auto_pad": "SAME_LOWER"}),
    "AveragePool 7": ("AveragePool", 7, [X], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    "AveragePool 10": ("AveragePool", 10, [X], {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    "ConvTranspose 9": (
        "ConvTranspose",
        9,
        [X, (floats(4, 2, 3, 3),)],
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
    ),
    "ArgMax 11": ("ArgMax", 11, [X], {"axis": 1, "keepdims": 0}),
    "Flatten 7": ("Flatten", 7, [X], {"axis": 2}),
    "NonMaxSuppression 10": (
        "NonMaxSuppression",
        10,
        [np.abs(floats(1, 6, 4)), np.abs(floats(1, 1, 6)), (np.array([3]),), (np.array([0.3], np.float32),)],
        {},
    ),
    **{
        f"{op} {opset} {axes}": (op, opset, [np.abs(X)], {"keepdims": 0, **({"axes": axes} if axes else {})})
        for op in (name for name in _FORMS if name.startswith("Reduce"))
        for opset, axes in ((7, [1, 2]), (11, [-1]), (12, None), (17, [2]))
        if opset < _FORMS[op][0]
    },
}
OUTPUTS = {"Split": 2, "TopK": 2}


def made(op: str, opset: int, inputs: list[Any], given: dict[str, Any]) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """A network of one node, and what to feed it; `given` are its attributes, and how many outputs it has."""
    given = dict(given)
    count = given.pop("outputs", OUTPUTS.get(op, 1))
    named = {f"x{position}": value for position, value in enumerate(inputs)}
    fed = {name: value for name, value in named.items() if not isinstance(value, tuple)}
    fixed = [numpy_helper.from_array(value[0], name) for name, value in named.items() if isinstance(value, tuple)]
    outputs = [f"y{position}" for position in range(count)]
    graph = helper.make_graph(
        [helper.make_node(op, list(named), outputs, "node", **given)],
        "g",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in fed.items()
        ],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        fixed,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=4), fed


def run(model: onnx.ModelProto, fed: dict[str, Any]) -> list[Any]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, fed))


@pytest.mark.parametrize("name", CASES)
def test_the_upgraded_node_computes_what_the_old_one_did(name: str) -> None:
    model, fed = made(*CASES[name])
    before = run(model, fed)
    upgrade(model)
    assert [entry.version for entry in model.opset_import] == [UPGRADED_OPSET]
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(model, strict_mode=True))
    for one, other in zip(before, run(model, fed), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-6)


def test_every_operator_that_changed_has_an_entry() -> None:
    versions: dict[str, set[int]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "" and schema.since_version <= UPGRADED_OPSET:
            versions.setdefault(schema.name, set()).add(schema.since_version)
    changed = {name for name, since in versions.items() if any(version > FIRST_OPSET for version in since)}
    changed = {name for name in changed if min(versions[name]) < max(versions[name])}
    assert changed - _FORMS.keys() - _SAME.keys() == set()
    assert (_FORMS.keys() | _SAME.keys()) - changed == set()


def test_a_form_that_changed_by_more_than_types_is_no_same() -> None:
    """What counts as unchanged takes at opset 18 every attribute and as many inputs as before."""
    for name, first in _SAME.items():
        new = onnx.defs.get_schema(name, UPGRADED_OPSET, "")
        for opset in range(max(first, FIRST_OPSET), UPGRADED_OPSET):
            if not onnx.defs.has(name, opset, ""):
                continue
            old = onnx.defs.get_schema(name, opset, "")
            assert set(old.attributes) <= set(new.attributes), name
            assert old.max_input <= new.max_input, name
            assert new.min_input <= old.min_input, name
            for attribute, definition in old.attributes.items():
                default = new.attributes[attribute].default_value
                # what had to be given, or had no default in writing, may have got one
                if definition.default_value.type:
                    assert default == definition.default_value, (name, attribute)


def test_nodes_of_subgraphs_are_upgraded_too() -> None:
    def branch(name: str, axis: int) -> onnx.GraphProto:
        node = helper.make_node("Softmax", ["x"], [name], axis=axis)
        return helper.make_graph([node], name, [], [helper.make_empty_tensor_value_info(name)])

    graph = helper.make_graph(
        [helper.make_node("If", ["c"], ["y"], then_branch=branch("a", 1), else_branch=branch("b", 2))],
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, X.shape),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
        ],
        [helper.make_empty_tensor_value_info("y")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
    fed = [{"x": X, "c": np.array(value)} for value in (True, False)]
    before = [run(model, one)[0] for one in fed]
    upgrade(model)
    for expected, one in zip(before, fed, strict=True):
        np.testing.assert_allclose(run(model, one)[0], expected, rtol=1e-5)


def test_a_mask_that_nothing_reads_is_left_out() -> None:
    model, _ = made("Dropout", 9, [X], {"ratio": 0.5})
    model.graph.node[0].output.append("mask")
    upgrade(model)
    assert [(node.op_type, *node.output) for node in model.graph.node] == [("Dropout", "y0")]
    np.testing.assert_array_equal(run(model, {"x0": X})[0], X)


def scan_of_opset_8(*lengths: int, **given: Any) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Running sums of two sequences, `[3, 5, 2]`, and a softmax of old form of each state."""
    body = helper.make_graph(
        [
            helper.make_node("Add", ["s", "a"], ["t"]),
            helper.make_node("Add", ["t", "b"], ["s_out"]),
            helper.make_node("Softmax", ["s_out"], ["p"], axis=0),
        ],
        "body",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "sab"],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("s_out", "p")],
    )
    inputs = ["lengths" if lengths else "", "state", "one", "other"]
    state, counts = (
        numpy_helper.from_array(floats(3, 2), "state"),
        numpy_helper.from_array(np.array(lengths), "lengths"),
    )
    graph = helper.make_graph(
        [helper.make_node("Scan", inputs, ["last", "all"], "scan", body=body, num_scan_inputs=2, **given)],
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3, 5, 2]) for name in ("one", "other")],
        [helper.make_empty_tensor_value_info(name) for name in ("last", "all")],
        [state, counts] if lengths else [state],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 8)], ir_version=4)
    return model, {"one": floats(3, 5, 2), "other": floats(3, 5, 2)}


@pytest.mark.parametrize("given", [{}, {"directions": [0, 1]}])
def test_a_scan_with_a_batch_axis_is_a_scan_of_scans(given: dict[str, Any]) -> None:
    model, fed = scan_of_opset_8(**given)
    before = run(model, fed)
    upgrade(model)
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(model, strict_mode=True))
    for one, other in zip(before, run(model, fed), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5)


def test_a_scan_of_sequences_of_several_lengths_is_refused() -> None:
    model, _ = scan_of_opset_8(1, 5, 3)
    with pytest.raises(ModelNotTaken, match=r"node 'scan' \(Scan of opset 8\) has sequences of several lengths"):
        upgrade(model)


def test_names_that_branches_share_do_not_mix_what_is_known_of_them() -> None:
    """ONNX Runtime takes two branches that call their values alike; their scales and types are their own."""

    def branch(name: str, scales: list[float], kind: int) -> onnx.GraphProto:
        nodes = [
            helper.make_node("Resize", ["x", "scales"], ["r"]),
            helper.make_node("Cast", ["r"], ["c"], to=kind),
            helper.make_node("Pad", ["c"], ["p"], pads=[0, 0, 1, 0, 0, 0, 0, 1], value=0.5),
            helper.make_node("Cast", ["p"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["f"], [name], axes=[1, 2, 3]),
        ]
        made = [numpy_helper.from_array(np.array(scales, np.float32), "scales")]
        return helper.make_graph(nodes, name, [], [helper.make_empty_tensor_value_info(name)], made)

    branches = {
        "then_branch": branch("y_then", UP, TensorProto.FLOAT),
        "else_branch": branch("y_else", DOWN, TensorProto.DOUBLE),
    }
    graph = helper.make_graph(
        [helper.make_node("If", ["c0"], ["y"], **branches)],
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, X.shape),
            helper.make_tensor_value_info("c0", TensorProto.BOOL, []),
        ],
        [helper.make_empty_tensor_value_info("y")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 10)], ir_version=5)
    fed = [{"x": X, "c0": np.array(value)} for value in (True, False)]
    before = [run(model, one)[0] for one in fed]
    upgrade(model)
    for expected, one in zip(before, fed, strict=True):
        np.testing.assert_allclose(run(model, one)[0], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("case", "says"),
    [
        (
            ("Add", 6, [X, X], {}),
            r"opset 6 is older than what ONNX Runtime runs \(7 to 26\): it has nothing for node \(Add\); convert",
        ),
        (("Relu", 27, [X], {}), r"opset 27 is newer than what ONNX Runtime runs \(7 to 26\); export .* 26 or older"),
        (("ImageScaler", 11, [X], {}), r"opset 11 cannot be converted to 18 with node \(ImageScaler\)"),
        (
            (
                "Resize",
                11,
                [X, X, (np.array(UP, np.float32),)],
                {"coordinate_transformation_mode": "tf_half_pixel_for_nn", "mode": "linear"},
            ),
            r"node 'node' \(Resize of opset 11\) has the coordinates tf_half_pixel_for_nn",
        ),
    ],
)
def test_what_has_no_newer_form_is_refused(case: tuple[str, int, list[Any], dict[str, Any]], says: str) -> None:
    model, _ = made(*case)
    with pytest.raises((ModelNotTaken, ModelTooNew), match=says):
        upgrade(model)


@pytest.mark.parametrize("opset", [18, 21, 25])
def test_a_newer_network_stays(opset: int) -> None:
    model, _ = made("Relu", opset, [X], {})
    before = model.SerializeToString()
    upgrade(model)
    assert model.SerializeToString() == before
