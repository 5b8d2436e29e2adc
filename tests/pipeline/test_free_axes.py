"""A delivered file takes every length that the uploaded one takes, not only that of the samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import pipeline

F, I64 = TensorProto.FLOAT, TensorProto.INT64
WIDTH, HEADS, WORDS, LONGEST = 16, 2, 40, 24
SIZE = WIDTH // HEADS
node, value = helper.make_node, helper.make_tensor_value_info

Arrays = dict[str, np.ndarray]


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return (generator.standard_normal(shape) / np.sqrt(shape[-2])).astype(np.float32)


def model_of(nodes: list[onnx.NodeProto], inputs: Any, outputs: Any, constants: dict[str, Any], opset: int) -> bytes:
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "free", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def length(of: str, axis: str, name: str) -> list[onnx.NodeProto]:
    """One axis of a value, as exporters write it."""
    return [node("Shape", [of], [f"{name}_shape"]), node("Gather", [f"{name}_shape", axis], [name])]


def decoder() -> bytes:
    """A layer of a causal decoder with a cache: positions and mask come from the lengths of tokens and cache."""
    nodes = [
        *length("ids", "one", "tokens"),
        *length("past_key", "two", "past"),
        node("Add", ["past", "tokens"], ["all"]),
        node("Range", ["past", "all", "one"], ["own_places"]),
        node("Range", ["zero", "all", "one"], ["all_places"]),
        node("Gather", ["words", "ids"], ["word"]),
        node("Gather", ["places", "own_places"], ["place"]),
        node("Add", ["word", "place"], ["x"]),
    ]
    for letter in "qkv":
        nodes += [
            node("MatMul", ["x", f"w{letter}"], [f"{letter}0"]),
            node("Reshape", [f"{letter}0", "heads"], [f"{letter}1"]),
            node("Transpose", [f"{letter}1"], [f"{letter}2"], perm=[0, 2, 1, 3]),
        ]
    nodes += [
        node("Concat", ["past_key", "k2"], ["present_key"], axis=2),
        node("Concat", ["past_value", "v2"], ["present_value"], axis=2),
        node("Transpose", ["present_key"], ["kt"], perm=[0, 1, 3, 2]),
        node("MatMul", ["q2", "kt"], ["scores"]),
        node("Unsqueeze", ["own_places", "last"], ["column"]),
        node("Greater", ["all_places", "column"], ["later"]),
        node("Cast", ["later"], ["later_float"], to=F),
        node("Mul", ["later_float", "lowest"], ["mask"]),
        node("Add", ["scores", "mask"], ["masked"]),
        node("Softmax", ["masked"], ["p"], axis=-1),
        node("MatMul", ["p", "present_value"], ["mixed"]),
        node("Transpose", ["mixed"], ["m1"], perm=[0, 2, 1, 3]),
        node("Reshape", ["m1", "flat"], ["m2"]),
        node("MatMul", ["m2", "wo"], ["o"]),
        node("Add", ["o", "x"], ["h"]),
        node("MatMul", ["h", "head"], ["logits"]),
    ]
    cache = ["batch", HEADS, "past", SIZE], ["batch", HEADS, "past + tokens", SIZE]
    inputs = [value("ids", I64, ["batch", "tokens"]), value("past_key", F, cache[0]), value("past_value", F, cache[0])]
    outputs = [value("logits", F, ["batch", "tokens", WORDS])]
    outputs += [value("present_key", F, cache[1]), value("present_value", F, cache[1])]
    constants = {name: draw(WIDTH, WIDTH, seed=seed) for seed, name in enumerate(("wq", "wk", "wv", "wo"))}
    constants |= {"words": draw(WORDS, WIDTH), "places": draw(LONGEST, WIDTH), "head": draw(WIDTH, WORDS)}
    constants |= {"heads": np.array([0, 0, HEADS, SIZE]), "flat": np.array([0, 0, WIDTH]), "last": np.array([-1])}
    constants |= {"zero": 0, "one": 1, "two": 2, "lowest": np.float32(-1e9)}
    return model_of(nodes, inputs, outputs, constants, 17)


def tokens_and_cache(samples: int, tokens: int, past: int) -> Arrays:
    generator = np.random.default_rng(tokens + past)
    cache = generator.standard_normal((2, samples, HEADS, past, SIZE)).astype(np.float32)
    return {"ids": generator.integers(0, WORDS, (samples, tokens)), "past_key": cache[0], "past_value": cache[1]}


def segmenter() -> bytes:
    """A fully convolutional network that goes down and comes back to the size of its image."""
    nodes = [
        node("Conv", ["image", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Relu", ["c1"], ["r1"]),
        node("Conv", ["r1", "w2", "b2"], ["c2"], pads=[1, 1, 1, 1]),
        node("Relu", ["c2"], ["r2"]),
        node("Shape", ["image"], ["all"]),
        node("Slice", ["all", "two", "four"], ["size"]),
        node("Shape", ["r2"], ["low"]),
        node("Slice", ["low", "zero", "two"], ["front"]),
        node("Concat", ["front", "size"], ["target"], axis=0),
        node("Resize", ["r2", "", "", "target"], ["up"], mode="linear"),
        node("Conv", ["up", "w3"], ["y"]),
    ]
    constants = {"w1": draw(12, 3, 3, 3), "b1": draw(1, 12)[0], "w2": draw(12, 12, 3, 3), "b2": draw(1, 12)[0]}
    constants |= {"w3": draw(4, 12, 1, 1), "zero": np.array([0]), "two": np.array([2]), "four": np.array([4])}
    inputs, outputs = [value("image", F, ["batch", 3, "rows", "columns"])], [value("y", F, ["batch", 4, None, None])]
    return model_of(nodes, inputs, outputs, constants, 13)


def image(samples: int, rows: int, columns: int) -> Arrays:
    generator = np.random.default_rng(rows)
    return {"image": generator.standard_normal((samples, 3, rows, columns)).astype(np.float32)}


def interface(data: bytes) -> list[tuple[str, int, list[int | str]]]:
    graph = onnx.ModelProto.FromString(data).graph
    return [
        (v.name, v.type.tensor_type.elem_type, [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim])
        for v in (*graph.input, *graph.output)
    ]


def running(data: bytes) -> Any:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return lambda arrays: session.run(None, arrays)


def errors(expected: list[np.ndarray], quantized: list[np.ndarray]) -> list[float]:
    """Of each output the root mean square of the error, relative to that of the values."""
    pairs = list(zip(expected, quantized, strict=True))
    assert [a.shape for a, _ in pairs] == [b.shape for _, b in pairs]
    return [float(np.sqrt(np.square(a - b).mean() / np.square(a).mean())) for a, b in pairs if a.size]


REQUEST = {"budget": {"metric": "cosine", "max_drop": 0.01}, "sensitivity": {"method": "cross_layer"}}


@pytest.mark.parametrize("request_", [{}, {"activations": {"bits": [8]}}])
def test_a_decoder_still_decodes(request_):
    uploaded = decoder()
    request = {**REQUEST, "weights": {"bits": [7, 8]}, **request_}
    result = pipeline.plan(uploaded, tokens_and_cache(80, 4, 6), request)
    assert result.outcome == "met"
    assert interface(result.model) == interface(uploaded)
    assert len(result.model) < len(uploaded)
    floats, quantized = running(uploaded), running(result.model)

    def compared(tokens: int, past: int) -> float:
        arrays = tokens_and_cache(20, tokens, past)
        return max(errors(floats(arrays), quantized(arrays)))

    at_samples = compared(4, 6)
    assert at_samples < 0.05
    # a first token looks at itself alone, with a weight of 1 that no sample shows
    for lengths in ((1, 0), (1, 12), (9, 3), (LONGEST, 0)):
        assert compared(*lengths) < 3 * at_samples + 0.02
    # token by token, from an empty cache: as all at once, since the mask lets no token look ahead
    whole = tokens_and_cache(3, 7, 0)
    cache = {name: whole[name] for name in ("past_key", "past_value")}
    logits = []
    for token in range(7):
        step, key, values = quantized({"ids": whole["ids"][:, token : token + 1], **cache})
        cache = {"past_key": key, "past_value": values}
        logits.append(step)
    np.testing.assert_allclose(np.concatenate(logits, 1), quantized(whole)[0], rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("request_", [{}, {"activations": {"bits": [8]}, "opset": 21}])
def test_an_image_may_have_another_size(request_):
    uploaded = segmenter()
    result = pipeline.plan(uploaded, image(80, 8, 12), {**REQUEST, **request_})
    assert result.outcome == "met"
    assert interface(result.model) == interface(uploaded)
    assert not onnx.ModelProto.FromString(result.model).graph.value_info
    floats, quantized = running(uploaded), running(result.model)
    (at_samples,) = errors(floats(image(20, 8, 12)), quantized(image(20, 8, 12)))
    for size in ((12, 8), (7, 9), (33, 2), (24, 24)):
        arrays = image(4, *size)
        assert max(errors(floats(arrays), quantized(arrays))) < 2 * at_samples + 0.02


def test_a_plan_is_applied_to_a_file_with_free_axes():
    uploaded, samples = segmenter(), image(80, 8, 12)
    result = pipeline.plan(uploaded, samples, REQUEST)
    assert pipeline.apply(uploaded, result.plan, samples).model == result.model
    assert [layer["bit_operations"] // layer["bits"] // layer["input_bits"] for layer in result.plan["layers"]] == [
        12 * 4 * 6 * 27,
        12 * 4 * 6 * 108,
        4 * 8 * 12 * 12,
    ]
