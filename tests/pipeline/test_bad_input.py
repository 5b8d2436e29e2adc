"""Everything that may be wrong with an upload or a request: a stable code, and a text that says what to do."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from app.errors import CATALOGUE


def failing(run) -> tuple[str, str]:
    """Code and text of the error that ends the job."""
    with pytest.raises(ValueError) as caught:
        run.run()
    code = type(caught.value).code
    assert code in CATALOGUE
    return code, str(caught.value)


def changed(model: bytes, change) -> bytes:
    proto = onnx.ModelProto.FromString(model)
    change(proto)
    return proto.SerializeToString()


def external(proto):
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")


def unknown_operator(proto):
    proto.graph.node[-1].output[0] = "before"
    proto.graph.node.append(helper.make_node("Cast", ["before"], ["words"], name="to_words", to=TensorProto.INT64))
    counted = helper.make_node(
        "TfIdfVectorizer",
        ["words"],
        ["counts"],
        name="my_counts",
        mode="TF",
        min_gram_length=1,
        max_gram_length=1,
        max_skip_count=0,
        ngram_counts=[0],
        ngram_indexes=[0, 1],
        pool_int64s=[0, 1],
    )
    proto.graph.node.append(counted)
    proto.graph.node.append(helper.make_node("Identity", ["before"], ["logits"]))
    proto.graph.output.append(helper.make_tensor_value_info("counts", TensorProto.FLOAT, ["n", 2]))


def custom_domain(proto):
    proto.opset_import.append(helper.make_opsetid("my.company", 1))
    proto.graph.node[1].domain = "my.company"


def nan_weight(proto):
    tensor = proto.graph.initializer[0]
    values = onnx.numpy_helper.to_array(tensor).copy()
    values.flat[3] = np.nan
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


def nothing_to_quantize(proto):
    del proto.graph.node[:]
    proto.graph.node.append(helper.make_node("GlobalAveragePool", ["image"], ["pooled"]))
    proto.graph.node.append(helper.make_node("Tile", ["pooled", "repeats"], ["tiled"]))
    proto.graph.node.append(helper.make_node("Flatten", ["tiled"], ["logits"]))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 10, 1, 1]), "repeats"))


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (external, "model_external_data", ["conv1.weight", "outside"]),
        (custom_domain, "model_custom_operators", ["my.company"]),
        (nan_weight, "model_weights_not_finite", ["conv1.weight"]),
        (nothing_to_quantize, "model_nothing_to_quantize", ["expected at least one Conv"]),
    ],
)
def test_models(job, model, samples, change, code, words):
    found, text = failing(job(changed(model, change), samples))
    assert found == code, text
    for word in words:
        assert word in text


@pytest.mark.parametrize("data", [b"not a model at all", b"PK\x03\x04zip", b""])
def test_what_is_no_onnx(job, samples, data):
    code, text = failing(job(data, samples))
    assert code == "model_not_onnx"
    assert "upload" in text


def test_a_truncated_model(job, model, samples):
    code, text = failing(job(model[: len(model) // 2], samples))
    assert code == "model_not_onnx"
    assert "cut off" in text or "truncated" in text


def test_an_axis_that_nothing_fixes(job, model):
    def dynamic(proto):
        proto.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"

    code, text = failing(job(changed(model, dynamic), None))
    assert code == "model_shapes_not_fixed"
    assert "dataset" in text


def images(samples, **arrays):
    return {**samples, **arrays}


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (lambda s: {"picture": s["image"], "foto": s["image"]}, "dataset_wrong_names", ["'picture'", "'image'"]),
        (lambda s: images(s, labels=s["labels"][:-1]), "dataset_sample_counts", ["1197", "1196"]),
        (lambda s: images(s, labels=s["labels"] + 1), "dataset_labels_out_of_range", ["0 to 9", "subtract 1"]),
        (lambda s: {"image": s["image"][:20]}, "dataset_too_few_samples", ["20", "at least"]),
        (lambda s: {"image": s["image"][:, :, :, :5]}, "dataset_shape_mismatch", ["5", "8"]),
        (lambda s: {"image": (255 * s["image"]).astype(np.uint8)}, "dataset_invalid", ["uint8", "float32"]),
    ],
)
def test_data(job, model, samples, change, code, words):
    found, text = failing(job(model, change(samples)))
    assert found == code, text
    for word in words:
        assert word in text


def test_nan_in_the_data_is_found_with_its_place(job, model, samples):
    broken = samples["image"].copy()
    broken[7, 0, 1, 2] = np.nan
    code, text = failing(job(model, images(samples, image=broken)))
    assert code == "dataset_not_finite"
    assert "7, 0, 1, 2" in text


def masking_nan(proto):
    """The image with 0 where it is NaN."""
    for node in proto.graph.node:
        node.input[:] = ["masked" if name == "image" else name for name in node.input]
    proto.graph.node.insert(0, helper.make_node("IsNaN", ["image"], ["missing"]))
    proto.graph.node.insert(1, helper.make_node("Where", ["missing", "nothing", "image"], ["masked"]))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(0, np.float32), "nothing"))


def test_nan_that_the_network_masks_is_taken(job, model, samples):
    broken = samples["image"].copy()
    broken[::3, 0, 1, 2:4] = np.nan
    delivery = job(changed(model, masking_nan), images(samples, image=broken), {"activations": {"bits": [8]}}).run()
    assert delivery.outcome == "met"


def test_a_constant_that_makes_outputs_nan_is_named(job, model, samples):
    def nan_bias(proto):
        bias = next(tensor for tensor in proto.graph.initializer if tensor.name == "fc.bias")
        values = onnx.numpy_helper.to_array(bias).copy()
        values[3] = np.nan
        bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))

    run = job(changed(model, nan_bias), samples)
    code, text = failing(run)
    assert code == "model_weights_not_finite"
    assert "1 of 10 values of the output 'logits' are NaN for every sample" in text
    assert "fc.bias (NaN)" in text
    assert "calibrate" not in run.ran


def test_a_pickle_is_not_opened(job, model, samples):
    code, _ = failing(job(model, {"image": np.array([{"a": 1}] * 100, dtype=object)}))
    assert code == "dataset_invalid"


def test_layers_that_do_not_exist(job, model, samples):
    code, text = failing(job(model, samples, {"layers": {"conv9": {"keep": True}}}))
    assert code == "layers_unknown"
    assert "'conv9'" in text
    assert "conv1, conv2, fc" in text


def test_a_limit_below_the_cheapest_plan_is_refused_before_anything_slow(job, model, samples):
    run = job(model, samples, {"limits": {"max_size_bytes": 500}})
    code, text = failing(run)
    assert code == "plan_limit_unreachable"
    assert "limits.max_size_bytes is 500" in text
    assert run.ran == ["admit", "normalise"]


def test_top1_without_labels(job, model, samples):
    code, text = failing(job(model, {"image": samples["image"]}, {"budget": {"metric": "top1", "max_drop": 0.01}}))
    assert code == "metric_not_applicable"
    assert "labels" in text


def test_one_weight_under_two_names(job, model, samples):
    layers = {"conv1": {"keep": True}, "first": {"bits": [8]}}
    code, text = failing(job(model, samples, {"layers": layers}))
    assert code == "constraint_impossible"
    assert "say it once, as 'conv1'" in text


def renamed_first_node(model: bytes, name: str) -> bytes:
    def rename(proto):
        proto.graph.node[0].name = name

    return changed(model, rename)


def test_a_name_of_two_weights(job, model, samples):
    code, text = failing(
        job(renamed_first_node(model, "conv2.weight"), samples, {"layers": {"conv2.weight": {"bits": [4]}}})
    )
    assert code == "constraint_impossible"
    assert "conv1, conv2" in text


def test_the_name_of_a_layer_goes_before_that_of_a_node(job, model, samples):
    run = job(renamed_first_node(model, "fc"), samples, {"weights": {"bits": [2, 8]}, "layers": {"fc": {"keep": True}}})
    bits = {layer["name"]: layer["bits"] for layer in json.loads(run.run().artifacts["plan"])["layers"]}
    assert bits["fc"] == 32
    assert bits["conv1"] in (2, 8)


@pytest.mark.parametrize(("batch", "words"), [(400, ["400", "299", "1,600"]), (2000, ["2,000", "1,024"])])
def test_a_fixed_batch_that_the_samples_cannot_fill(job, model, samples, batch, words):
    def fix(proto):
        for value in (*proto.graph.input, *proto.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = batch

    run = job(changed(model, fix), samples)
    code, text = failing(run)
    assert code == "dataset_too_few_samples"
    assert run.ran == ["admit", "normalise"]
    for word in words:
        assert word in text


def past_argmax(proto):
    proto.graph.node.append(helper.make_node("ArgMax", ["logits"], ["class"], axis=1, keepdims=0))
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("class", TensorProto.INT64, ["N"]))


def one_column(proto):
    proto.graph.node.append(helper.make_node("ReduceMean", ["logits", "axes"], ["value"], keepdims=1))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1]), "axes"))
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("value", TensorProto.FLOAT, ["N", 1]))


def one_number_for_all(proto):
    proto.graph.node.append(helper.make_node("ReduceMean", ["logits"], ["value"], keepdims=0))
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("value", TensorProto.FLOAT, []))


def weights_behind_a_choice_only(proto):
    past_argmax(proto)
    proto.graph.node.append(helper.make_node("GlobalAveragePool", ["image"], ["pooled"]))
    proto.graph.output.insert(0, helper.make_tensor_value_info("pooled", TensorProto.FLOAT, ["N", 1, 1, 1]))


@pytest.mark.parametrize(
    ("change", "labelled", "metric", "code", "words"),
    [
        (past_argmax, False, "agreement", "metric_not_applicable", ["int64", "without ArgMax"]),
        (one_column, True, None, "dataset_labels_out_of_range", ["'value'", "2 classes", "`targets`"]),
        (one_column, False, "kl", "metric_not_applicable", ["at least 2 classes", "use explained"]),
        (one_column, False, "agreement", "metric_not_applicable", ["at least 2 classes", "use explained"]),
        (one_number_for_all, True, None, "metric_not_applicable", ["along one of its axes"]),
        (weights_behind_a_choice_only, False, "cosine", "model_nothing_to_quantize", ["'pooled'", "conv1"]),
    ],
)
def test_outputs_that_nothing_can_be_measured_at(job, model, samples, change, labelled, metric, code, words):
    data = samples if labelled else {"image": samples["image"]}
    run = job(changed(model, change), data, {"budget": {"metric": metric}})
    found, text = failing(run)
    assert found == code, text
    assert "calibrate" not in run.ran
    for word in words:
        assert word in text


def test_labels_of_positions_for_one_prediction_per_sample(job, model, samples):
    run = job(model, images(samples, labels=np.stack([samples["labels"]] * 3, axis=1)))
    code, text = failing(run)
    assert code == "metric_not_applicable"
    for word in ("3]", "'logits'", "10]", "budget.metric"):
        assert word in text
    assert "calibrate" not in run.ran


def test_an_operator_without_a_rule_is_no_reason_to_refuse_but_for_methods_with_gradients(job, model, samples):
    unknown = changed(model, unknown_operator)
    run = job(unknown, samples, {"sensitivity": {"method": "hawq_v2"}, "weights": {"bits": [3, 8]}})
    code, text = failing(run)
    assert code == "model_unsupported_operators"
    for word in ("TfIdfVectorizer", "'my_counts'", "without"):
        assert word in text
    assert run.ran == ["admit", "normalise"], "refused before anything expensive"

    compare = {"sensitivity": {"compare": ["hawq_v2"]}}
    delivery = job(unknown, samples, {"weights": {"bits": [3, 4, 8]}, "budget": {"max_drop": 0.05}, **compare}).run()
    sensitivity = json.loads(delivery.artifacts["sensitivity"])
    assert "TfIdfVectorizer" in sensitivity["unavailable"]["hawq_v2"]
    assert {one["method"] for one in sensitivity["agreement"]["methods"]} == {"augmented", "cross_layer", "measured"}
    assert sensitivity["sites"][0]["trace_mean"] == {"score": None, "stderr": None}
    assert json.loads(delivery.artifacts["plan"])["layers"][0]["trace_mean"] is None
    assert delivery.outcome == "met"


def test_what_onnx_runtime_and_onnx_ml_define_is_planned_around(job, model, samples):
    def prepared(proto):
        for node in proto.graph.node:
            node.input[:] = ["scaled" if name == "image" else name for name in node.input]
        scaler = helper.make_node(
            "Scaler", ["image"], ["scaled"], domain="ai.onnx.ml", offset=[0.0], scale=[1.0], name="prepare"
        )
        proto.graph.node.insert(0, scaler)
        proto.graph.node[-1].output[0] = "raw"
        proto.graph.node.append(helper.make_node("Trilu", ["mask"], ["upper"], domain="com.microsoft"))
        proto.graph.node.append(helper.make_node("Mul", ["raw", "upper"], ["logits"]))
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((1, 10), np.float32), "mask"))
        proto.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))

    request = {"weights": {"bits": [4, 8]}, "sensitivity": {"compare": ["hawq_v2"]}}
    delivery = job(changed(model, prepared), samples, request).run()
    assert delivery.outcome == "met"
    delivered = onnx.load_from_string(delivery.artifacts["model"])
    assert {("ai.onnx.ml", "Scaler")} <= {(node.domain, node.op_type) for node in delivered.graph.node}
    assert "ai.onnx.ml" in {entry.domain for entry in delivered.opset_import}
    assert "ai.onnx.ml.Scaler" in json.loads(delivery.artifacts["sensitivity"])["unavailable"]["hawq_v2"]


def test_a_method_that_does_not_cover_activations_is_refused_before_anything_expensive(job, model, samples):
    run = job(model, samples, {"sensitivity": {"method": "hawq"}, "activations": {"bits": [8]}})
    code, text = failing(run)
    assert code == "sensitivity_not_applicable"
    assert "scores weights alone" in text
    assert "take auto" in text
    assert run.ran == ["admit", "normalise"]


@pytest.mark.parametrize(
    ("constraint", "words"),
    [
        ({"bits": [6]}, ["layers.r1", "4 or 8 or 16 bits", "8"]),
        ({"same_as": "image"}, ["layers.r1", "cannot be the same"]),
        (
            {"formats": ["int8/channel"]},
            ["layers.r1 is an activation", "int8/channel", 'name its widths: {"bits": [8]}'],
        ),
    ],
)
def test_what_an_activation_cannot_get(job, model, samples, constraint, words):
    code, text = failing(job(model, samples, {"activations": {"bits": [8]}, "layers": {"r1": constraint}}))
    assert code == "constraint_impossible"
    for word in words:
        assert word in text


def test_the_widths_of_an_activation_are_those_of_its_target(job, model, samples):
    request = {"target": "integer-w4w8-a8", "activations": {"bits": [8]}, "layers": {"r1": {"bits": [4]}}}
    code, text = failing(job(model, samples, request))
    assert code == "constraint_impossible"
    assert "layers.r1.bits" in text
