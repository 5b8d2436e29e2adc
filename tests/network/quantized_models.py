"""Networks of which one weight came quantized, each in another form: x `[N, 16]` -> y `[N, 8]`, two float weights."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

RNG = np.random.default_rng(6)
WIDTH, HIDDEN = 16, 32
node = helper.make_node


def floats(*shape: int) -> np.ndarray[Any, Any]:
    return (RNG.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32)


def rounded(weight: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Codes of 8 bits, and one scale for each column."""
    scale = (np.abs(weight).max(0) / 127).astype(np.float32)
    return np.round(weight / scale).astype(np.int8), scale


def behind_dequantize() -> ModelProto:
    """QDQ, with a rounded input, as ONNX Runtime's static quantization writes it."""
    codes, scale = rounded(floats(WIDTH, HIDDEN))
    constants = {"codes": codes, "scale": scale, "zero": np.zeros(HIDDEN, np.int8)}
    return _with_rounded_input([node("DequantizeLinear", ["codes", "scale", "zero"], ["w"], axis=1)], constants)


def behind_wide_dequantize() -> ModelProto:
    """Codes of 16 bits."""
    weight = floats(WIDTH, HIDDEN)
    scale = np.float32(np.abs(weight).max() / 32767)
    codes = np.round(weight / scale).astype(np.int16)
    nodes = [node("DequantizeLinear", ["codes", "scale"], ["w"]), node("MatMul", ["x", "w"], ["h"])]
    return _model(nodes, {"codes": codes, "scale": scale}, opset=21)


def behind_quantize() -> ModelProto:
    """A float weight that the graph rounds, as training with quantization exports it."""
    weight = floats(WIDTH, HIDDEN)
    constants = {"float": weight, "scale": rounded(weight)[1], "zero": np.zeros(HIDDEN, np.int8)}
    nodes = [
        node("QuantizeLinear", ["float", "scale", "zero"], ["codes"], axis=1),
        node("DequantizeLinear", ["codes", "scale", "zero"], ["w"], axis=1),
    ]
    return _with_rounded_input(nodes, constants)


def in_blocks() -> ModelProto:
    """Blocks of 16 codes of 4 bits."""
    weight = floats(WIDTH, HIDDEN)
    scale = (np.abs(weight).max(0, keepdims=True) / 7).astype(np.float32)
    codes = np.clip(np.round(weight / scale), -8, 7).astype(ml_dtypes.int4)
    nodes = [node("DequantizeLinear", ["codes", "scale"], ["w"], axis=0, block_size=WIDTH)]
    return _model([*nodes, node("MatMul", ["x", "w"], ["h"])], {"codes": codes, "scale": scale}, opset=21)


def packed(bias: bool = False, halves: bool = False) -> ModelProto:
    """MatMulNBits, of float32 or float16."""
    scale = np.abs(floats(HIDDEN)) / 8
    constants: dict[str, Any] = {
        "codes": RNG.integers(0, 256, (HIDDEN, 1, 8), dtype=np.uint8),
        "scale": scale.astype(np.float16) if halves else scale,
    }
    inputs = ["x", "codes", "scale"]
    if bias:
        constants["bias"] = floats(HIDDEN)
        inputs += ["", "", "bias"]
    made = node("MatMulNBits", inputs, ["h"], domain="com.microsoft", K=WIDTH, N=HIDDEN, bits=4, block_size=16)
    nodes = [made]
    if halves:
        made.input[0], made.output[0] = "xh", "hh"
        behind = node("Cast", ["hh"], ["h"], to=TensorProto.FLOAT)
        nodes = [node("Cast", ["x"], ["xh"], to=TensorProto.FLOAT16), made, behind]
    return _model(nodes, constants, domains=("com.microsoft",))


def of_integers() -> ModelProto:
    """MatMulInteger, as ONNX Runtime's dynamic quantization writes it."""
    codes, scale = rounded(floats(WIDTH, HIDDEN))
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["xq", "xs", "xz"]),
        node("MatMulInteger", ["xq", "codes", "xz"], ["hi"]),
        node("Cast", ["hi"], ["hf"], to=TensorProto.FLOAT),
        node("Mul", ["hf", "xs"], ["hs"]),
        node("Mul", ["hs", "scale"], ["h"]),
    ]
    return _model(nodes, {"codes": codes, "scale": scale})


def _with_rounded_input(nodes: list[NodeProto], constants: dict[str, Any]) -> ModelProto:
    first = [
        node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
        node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
    ]
    constants |= {"xs": np.float32(0.03), "xz": np.uint8(128)}
    return _model([*first, *nodes, node("MatMul", ["xd", "w"], ["h"])], constants)


def _model(
    nodes: list[NodeProto], constants: dict[str, Any], opset: int = 17, domains: tuple[str, ...] = ()
) -> ModelProto:
    behind = [
        node("Relu", ["h"], ["r"]),
        node("MatMul", ["r", "second"], ["s"]),
        node("Tanh", ["s"], ["t"]),
        node("MatMul", ["t", "third"], ["y"]),
    ]
    arrays = constants | {"second": floats(HIDDEN, HIDDEN), "third": floats(HIDDEN, 8)}
    graph = helper.make_graph(
        [*nodes, *behind],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 8])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)
