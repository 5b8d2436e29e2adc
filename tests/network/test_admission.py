"""What gets in, what is refused, with which code, and whether the text says what to do."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from network.admission import AdmissionLimits, admit
from network.errors import (
    CustomOperators,
    ModelInvalid,
    ModelNotTaken,
    ModelTooLarge,
    ModelTooNew,
    NetworkError,
    NotOnnx,
    RandomOperators,
    ShapesNotFixed,
    WeightsNotFinite,
)
from network.memory import estimate_memory
from network.operator_sets import newest_versions
from network.tensor_spec import TensorSpec, input_specs
from tests.network.models import LIMITS, build, linear, refusal, value


def test_a_plain_model_comes_back_unchanged() -> None:
    model = linear()
    assert admit(model.SerializeToString(), LIMITS) == model
    assert input_specs(model) == (TensorSpec("x", "float32", (None, 4)),)


def test_initializers_listed_as_inputs_are_not_asked_for() -> None:
    model = linear()
    model.graph.input.extend([value("W", [4, 3]), value("b", [3])])
    model.ir_version = 3
    assert [spec.name for spec in input_specs(admit(model.SerializeToString(), LIMITS))] == ["x"]


@pytest.mark.parametrize("field", ["max_model_bytes", "max_memory_bytes", "max_nodes"])
def test_limits_are_positive(field: str) -> None:
    with pytest.raises(ValueError, match=field):
        AdmissionLimits(**{field: 0})


# --- size and parsing -------------------------------------------------------------------------------------------


def test_size_is_checked_before_anything_is_parsed() -> None:
    text = refusal(b"\xff" * 101, ModelTooLarge, AdmissionLimits(max_model_bytes=100))
    assert "101 bytes" in text
    assert "100 are allowed" in text


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        (b"", "empty"),
        (b"hello", "5 bytes"),
        (b"\x00" * 64, "64 bytes"),
        (b"PK\x03\x04" + b"\x00" * 64, "PyTorch checkpoint"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS pointer"),
        (b'{"error": "not found"}', "JSON"),
        (b"<html></html>", "web page"),
        (b"\x08\x07", "without IR version or graph"),
    ],
)
def test_other_files_are_named(data: bytes, hint: str) -> None:
    text = refusal(data, NotOnnx)
    assert hint in text
    assert "upload the .onnx file" in text


def test_every_truncation_is_refused() -> None:
    data = linear().SerializeToString()
    for length in range(len(data) - 1):
        with pytest.raises(NetworkError):
            admit(data[:length], LIMITS)


def test_text_that_is_not_utf8_is_refused() -> None:
    data = linear().SerializeToString().replace(b"Relu", b"Re\xff\xfe")
    assert "UTF-8" in refusal(data, ModelInvalid)


# --- operators and functions ------------------------------------------------------------------------------------


def test_custom_operators_are_named_with_their_nodes() -> None:
    model = build(
        [
            helper.make_node("FusedMatMul", ["x", "W"], ["h"], domain="com.microsoft", name="fused"),
            helper.make_node("Quantum", ["h"], ["g"], domain="my.company", name="odd"),
            helper.make_node("Foo", ["g"], ["y"]),
        ],
        [value("x", ["N", 4])],
        [value("y", ["N", 3])],
        {"W": np.eye(4, 3, dtype=np.float32)},
        domains={"com.microsoft": 1, "my.company": 1},
    )
    text = refusal(model, CustomOperators)
    assert "my.company.Quantum (node 'odd')" in text
    assert "Foo (the node that makes 'y')" in text
    assert "FusedMatMul" not in text
    assert "only other operators" not in text


def test_an_operator_that_the_version_of_an_official_domain_lacks_is_not_just_called_custom() -> None:
    model = linear()
    model.graph.node[2].CopyFrom(helper.make_node("NewThing", ["s"], ["y"], domain="com.microsoft"))
    text = refusal(model, CustomOperators)
    assert "com.microsoft.NewThing (the node that makes 'y')" in text
    assert "Of com.microsoft only other operators, or older versions, are known here" in text


def test_an_operator_that_is_younger_than_the_opset_is_told_with_its_opset() -> None:
    model = linear()
    model.graph.node[2].CopyFrom(helper.make_node("Gelu", ["s"], ["y"], name="act"))
    text = refusal(model, ModelInvalid)
    assert "imports opset 18, which is older than operators that it uses: Gelu, new in opset 20 (node 'act')" in text


@pytest.mark.parametrize(
    ("node", "weights"),
    [
        (helper.make_node("FastGelu", ["s"], ["y"], domain="com.microsoft"), {}),
        (helper.make_node("SimplifiedLayerNormalization", ["s", "g"], ["y"]), {"g": np.ones(3, np.float32)}),
        (helper.make_node("Scaler", ["s"], ["y"], domain="ai.onnx.ml", offset=[1.0], scale=[2.0]), {}),
    ],
)
def test_what_onnx_runtime_defines_is_taken_even_without_an_import(
    node: onnx.NodeProto, weights: dict[str, np.ndarray]
) -> None:
    model = linear(**weights)
    model.graph.node[2].CopyFrom(node)
    admitted = admit(model.SerializeToString(), LIMITS)
    assert [n.op_type for n in admitted.graph.node] == ["MatMul", "Add", node.op_type]
    assert {entry.domain for entry in admitted.opset_import} == {"", node.domain}
    run(admitted, x=np.ones((2, 4), np.float32))


def test_custom_operators_inside_subgraphs_and_functions_are_found() -> None:
    body = [helper.make_node("Foo", ["a"], ["b"], domain="lab")]
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("lab", 1)]
    model = build(
        [helper.make_node("F", ["x"], ["y"], domain="own")],
        [value("x", ["N", 4])],
        [value("y", ["N", 4])],
        functions=[helper.make_function("own", "F", ["a"], ["b"], body, opsets)],
        domains={"own": 1, "lab": 1},
    )
    assert "lab.Foo" in refusal(model, CustomOperators)


def test_random_numbers_are_refused_wherever_they_are_drawn() -> None:
    model = build(
        [helper.make_node("RandomNormalLike", ["x"], ["r"], name="noise"), helper.make_node("Add", ["x", "r"], ["y"])],
        [value("x", ["N", 4])],
        [value("y", ["N", 4])],
    )
    assert "draws random numbers: node 'noise' (RandomNormalLike). What it loses" in refusal(model, RandomOperators)


def run(model: ModelProto, **inputs: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, inputs))


@pytest.mark.parametrize("opset", [18, 11])
def test_functions_are_inlined_and_compute_the_same(opset: int) -> None:
    squeeze = {"axes": [0]} if opset == 11 else {}
    body = [
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Squeeze", ["r"], ["b"], **squeeze),
    ]
    model = build(
        [
            helper.make_node("F", ["x"], ["h"], domain="own"),
            helper.make_node("G", ["h"], ["y"], domain="own"),
        ],
        [value("x", [1, 4])],
        [value("y", [4])],
        functions=[
            helper.make_function("own", "F", ["a"], ["b"], body, [helper.make_opsetid("", opset)]),
            helper.make_function(
                "own",
                "G",
                ["a"],
                ["b"],
                [helper.make_node("Neg", ["a"], ["b"])],
                [helper.make_opsetid("", opset)],
            ),
        ],
        domains={"own": 1},
    )
    admitted = admit(model.SerializeToString(), LIMITS)
    assert not admitted.functions
    assert {opset.domain for opset in admitted.opset_import} == {""}
    x = np.array([[-1.0, 2.0, -3.0, 4.0]], np.float32)
    np.testing.assert_array_equal(run(admitted, x=x)[0], [0.0, -2.0, 0.0, -4.0])


def doubling(levels: int) -> ModelProto:
    """F0 = Relu; F(i) calls F(i-1) twice: 2**levels nodes from a few lines."""
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    functions = [helper.make_function("own", "F0", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], opsets)]
    for level in range(1, levels + 1):
        call = [
            helper.make_node(f"F{level - 1}", ["a"], ["t"], domain="own"),
            helper.make_node(f"F{level - 1}", ["t"], ["b"], domain="own"),
        ]
        functions.append(helper.make_function("own", f"F{level}", ["a"], ["b"], call, opsets))
    return build(
        [helper.make_node(f"F{levels}", ["x"], ["y"], domain="own")],
        [value("x", ["N", 4])],
        [value("y", ["N", 4])],
        functions=functions,
        domains={"own": 1},
    )


def test_functions_that_double_at_every_level_are_counted_without_inlining_them() -> None:
    assert len(admit(doubling(4).SerializeToString(), LIMITS).graph.node) == 16
    text = refusal(doubling(60), ModelTooLarge)
    assert f"{1 + 2**60 + sum(2**i for i in range(1, 61)):,} nodes" in text  # the calls and what they make
    assert "at most 200 nodes" in text


def test_a_chain_of_functions_that_is_too_deep_is_refused() -> None:
    model = doubling(70)
    for function in model.functions[1:]:
        del function.node[1:]
        function.node[0].output[0] = "b"
    assert "64 levels" in refusal(model, ModelNotTaken)


def test_functions_that_call_themselves_are_refused() -> None:
    model = doubling(2)
    model.functions[0].node[0].CopyFrom(helper.make_node("F2", ["a"], ["b"], domain="own"))
    assert "call themselves" in refusal(model, ModelInvalid)


def test_too_many_nodes_are_refused() -> None:
    nodes = [helper.make_node("Relu", [f"v{i}"], [f"v{i + 1}"]) for i in range(201)]
    text = refusal(build(nodes, [value("v0", ["N", 4])], [value("v201", ["N", 4])]), ModelTooLarge)
    assert "201 nodes" in text


def test_the_long_name_of_the_default_domain_is_settled() -> None:
    model = linear()
    model.opset_import[0].domain = "ai.onnx"
    model.graph.node[0].domain = "ai.onnx"
    assert admit(model.SerializeToString(), LIMITS) == linear()


def test_a_version_that_is_too_new_is_told_apart() -> None:
    model = linear()
    model.opset_import[0].version = 99
    assert "imports opset 99; the newest that" in refusal(model, ModelTooNew)
    model = linear()
    model.ir_version = 99
    assert "IR version 99; the newest that" in refusal(model, ModelTooNew)
    # what onnx knows already, and ONNX Runtime not yet
    opset, ir_version = newest_versions()
    if opset < onnx.defs.onnx_opset_version():
        model = linear()
        model.opset_import[0].version = opset + 1
        assert f"run here is {opset}:" in refusal(model, ModelTooNew)
    model.opset_import[0].version, model.ir_version = opset, ir_version
    admit(model.SerializeToString(), LIMITS)


@pytest.mark.parametrize("versions", [[], [18, 17], [0]])
def test_one_known_opset_is_needed(versions: list[int]) -> None:
    model = linear()
    del model.opset_import[:]
    model.opset_import.extend(helper.make_opsetid("", version) for version in versions)
    assert "opset" in refusal(model, ModelInvalid)


# --- structure --------------------------------------------------------------------------------------------------


def test_training_info_is_refused() -> None:
    model = linear()
    model.training_info.add()
    assert "training" in refusal(model, ModelNotTaken)


def test_a_graph_without_outputs_or_inputs_is_refused() -> None:
    model = linear()
    del model.graph.output[:]
    assert "no output" in refusal(model, ModelNotTaken)
    model = build([helper.make_node("Relu", ["c"], ["y"])], [], [value("y", [2])], {"c": np.ones(2, np.float32)})
    assert "no input" in refusal(model, ModelNotTaken)


@pytest.mark.parametrize(
    ("kind", "got"),
    [
        (helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, ["N", 4])), "sequence_type"),
        (helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(1, [1])), "map_type"),
        (helper.make_optional_type_proto(helper.make_tensor_type_proto(1, ["N", 4])), "optional_type"),
        (helper.make_tensor_type_proto(TensorProto.STRING, ["N", 4]), "elements of type string; expected float16"),
        (helper.make_tensor_type_proto(TensorProto.BFLOAT16, ["N", 4]), "elements of type bfloat16; expected float16"),
        (helper.make_tensor_type_proto(TensorProto.FLOAT8E4M3FN, ["N", 4]), "elements of type float8e4m3fn;"),
        (helper.make_tensor_type_proto(TensorProto.INT4, ["N", 4]), "elements of type int4; expected float16"),
        (helper.make_tensor_type_proto(TensorProto.COMPLEX64, ["N", 4]), "complex64"),
    ],
)
def test_only_tensors_of_numbers_are_inputs(kind: onnx.TypeProto, got: str) -> None:
    model = linear()
    model.graph.input.append(helper.make_value_info("other", kind))
    text = refusal(model, ModelNotTaken)
    assert "not valid" not in text
    assert "'other'" in text
    assert got in text


def test_an_input_needs_a_rank() -> None:
    model = linear()
    model.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(NetworkError) as caught:
        admit(model.SerializeToString(), LIMITS)
    assert caught.type in (ShapesNotFixed, ModelInvalid)
    assert "shape" in str(caught.value)


def test_an_output_of_another_kind_is_told_with_its_node() -> None:
    model = linear()
    zip_map = helper.make_node("ZipMap", ["y"], ["p"], domain="ai.onnx.ml", name="zip", classlabels_int64s=[0, 1, 2])
    model.graph.node.append(zip_map)
    model.graph.output[0].ClearField("type")
    model.graph.output[0].name = "p"
    text = refusal(model, ModelNotTaken)
    assert "output 'p' of node 'zip' (ZipMap) is of sequence_type; only tensors of numbers are taken" in text
    assert "zipmap=False" in text


def test_a_missing_input_shape_is_told_so_and_not_that_the_file_is_not_valid() -> None:
    model = linear()
    model.graph.input[0].type.tensor_type.ClearField("shape")
    assert "input 'x' has no shape" in refusal(model, ShapesNotFixed)


def test_what_the_checker_finds_is_passed_on() -> None:
    model = linear()
    model.graph.node[0].input[0] = "nowhere"
    assert "nowhere" in refusal(model, ModelInvalid)
    assert "Incompatible dimensions" in refusal(linear(W=np.eye(5, 3, dtype=np.float32)), ModelInvalid)


def test_a_lie_about_an_inner_shape_does_not_matter() -> None:
    model = linear()
    model.graph.value_info.append(value("h", ["N", 777]))
    admitted = admit(model.SerializeToString(), LIMITS)
    assert estimate_memory(admitted, 1).total_bytes == estimate_memory(linear(), 1).total_bytes


# --- weights ----------------------------------------------------------------------------------------------------


def test_weights_that_are_not_finite_are_named() -> None:
    weights = np.eye(4, 3, dtype=np.float32)
    weights[1, 1] = np.nan
    assert "W (NaN)" in refusal(linear(W=weights), WeightsNotFinite)
    weights[1, 1] = np.inf
    assert "W (infinity)" in refusal(linear(W=weights), WeightsNotFinite)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_weights_of_every_float_type_are_looked_at(dtype: type[np.floating]) -> None:
    cast = helper.make_node("Cast", ["W"], ["V"], to=TensorProto.FLOAT)
    model = linear()
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full((4, 3), np.nan, dtype), "W"))
    model.graph.node[0].input[1] = "V"
    model.graph.node.insert(0, cast)
    assert "W (NaN)" in refusal(model, WeightsNotFinite)


def test_weights_in_constant_nodes_are_looked_at() -> None:
    model = linear()
    tensor = model.graph.initializer.pop(0)
    bad = numpy_helper.from_array(np.full((4, 3), np.nan, np.float32), tensor.name)
    model.graph.node.insert(0, helper.make_node("Constant", [], ["W"], value=bad))
    assert "W (NaN)" in refusal(model, WeightsNotFinite)


@pytest.mark.parametrize("number", [-np.inf, np.nan])
def test_what_no_layer_multiplies_may_be_anything(number: float) -> None:
    mask = np.array([0.0, number, 0.0], np.float32)
    admit(linear(b=mask).SerializeToString(), LIMITS)


def test_an_opset_that_onnx_runtime_never_ran_is_told_as_such() -> None:
    model = build([helper.make_node("Add", ["x", "b"], ["y"], "add")], [value("x", [1, 4])], [value("y", [1, 4])])
    model.graph.initializer.append(numpy_helper.from_array(np.ones((1, 4), np.float32), "b"))
    model.opset_import[0].version = 6
    text = refusal(model, ModelNotTaken)
    assert text.startswith("opset 6 is older than what ONNX Runtime runs (7 to 26): it has nothing for add (Add)")


@pytest.mark.parametrize(
    ("op_type", "given"),
    [("ThresholdedRelu", {"alpha": 0.5}), ("ImageScaler", {"scale": 2.0, "bias": [0.0]}), ("Affine", {"alpha": 2.0})],
)
def test_operators_that_were_an_experiment_are_taken_in_the_old_opsets_that_onnx_runtime_has_them_in(
    op_type: str, given: dict[str, object]
) -> None:
    nodes = [helper.make_node(op_type, ["x"], ["h"], **given), helper.make_node("Relu", ["h"], ["y"])]
    model = build(nodes, [value("x", [1, 1, 4, 4])], [value("y", [1, 1, 4, 4])])
    model.opset_import[0].version = 8
    assert [node.op_type for node in admit(model.SerializeToString(), LIMITS).graph.node] == [op_type, "Relu"]
