"""How tools quantize a float network: ONNX Runtime's, AIMET's way to write QDQ, and ours."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from benchmarks.certificates.float_networks import FloatNetwork
from network.activations import find_activations
from network.admission import AdmissionLimits, admit
from network.normalise import normalise
from network.taps import Taps
from quantization.activations.quantized import QuantizedActivation
from quantization.activations.ranges import Histogram, calibrated
from quantization.export.export import export
from quantization.formats import UnsignedFormat, WeightFormat
from quantization.rounding.nearest import round_nearest

_IMAGES = 128  # that calibrate
Floats = NDArray[np.float32]


class _Images(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
    def __init__(self, network: FloatNetwork) -> None:
        self._batches = iter([{n: a[i : i + 32] for n, a in network.inputs.items()} for i in range(0, _IMAGES, 32)])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.ERROR)
        try:
            yield Path(folder)
        finally:
            logging.disable(logging.NOTSET)


def static(network: FloatNetwork, *, folds: bool = True, **options: Any) -> ModelProto:
    """`quantize_static`, after its own preparation where it `folds`."""
    with _folder() as folder:
        before, prepared, after = (folder / name for name in ("float.onnx", "prepared.onnx", "quantized.onnx"))
        onnx.save(network.model, before)
        if folds:
            quant_pre_process(str(before), str(prepared))
        quantize_static(str(prepared if folds else before), str(after), _Images(network), **options)
        return onnx.load(after)


def dynamic(network: FloatNetwork, **options: Any) -> ModelProto:
    """`quantize_dynamic`."""
    with _folder() as folder:
        before, after = folder / "float.onnx", folder / "quantized.onnx"
        onnx.save(network.model, before)
        quantize_dynamic(str(before), str(after), **options)
        return onnx.load(after)


def in_blocks(network: FloatNetwork, **options: Any) -> ModelProto:
    """`MatMulNBitsQuantizer`: the weights of MatMuls, or `algo_config` as given."""
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    with _folder():
        quantizer = MatMulNBitsQuantizer(ModelProto.FromString(network.model.SerializeToString()), **options)
        quantizer.process()
        return ModelProto.FromString(quantizer.model.model.SerializeToString())


def ours(
    network: FloatNetwork,
    format_: WeightFormat | Callable[[int], WeightFormat],
    *,
    activations: int | None = None,
    opset: int = 25,
) -> ModelProto:
    """Our own file: all weights in a format, or in that of their number, each value at its nearest code."""
    admitted = admit(network.model.SerializeToString(), AdmissionLimits())
    normalised = normalise(admitted, {name: array.shape[1:] for name, array in network.inputs.items()}, opset)
    weights = {}
    for number, site in enumerate(normalised.sites):
        chosen = format_(number) if callable(format_) else format_
        weights[site.weight] = round_nearest(normalised.weight(site.weight), chosen, site.channel_axis)
    tensors: dict[str, QuantizedActivation] = {}
    if activations is not None:
        sites = find_activations(normalised)
        histograms = {site.tensors[0]: Histogram(site.tensors[0]) for site in sites}
        taps = Taps(normalised, list(histograms), 1)

        def visit(name: str, values: NDArray[np.generic]) -> None:
            histograms[name].add(np.asarray(values, dtype=np.float32))

        for start in range(0, _IMAGES, 32):
            taps.run({name: array[start : start + 32] for name, array in network.inputs.items()}, visit)
        for site in sites:
            rounded = calibrated(histograms[site.tensors[0]], UnsignedFormat(activations))
            tensors |= dict.fromkeys(site.tensors, rounded)
    return ModelProto.FromString(export(normalised, weights, {}, tensors))


def folded(
    model: ModelProto, factor: Callable[[Floats, float], Floats] = lambda var, eps: np.sqrt(var + eps)
) -> ModelProto:
    """BatchNormalization behind Conv made part of it, as AIMET does before it quantizes: `gamma / factor` scales."""
    result = ModelProto.FromString(model.SerializeToString())
    tensors = {t.name: t for t in result.graph.initializer}
    makers = {node.output[0]: node for node in result.graph.node}
    for node in [n for n in result.graph.node if n.op_type == "BatchNormalization"]:
        conv = makers[node.input[0]]
        gamma, beta, mean, var = (numpy_helper.to_array(tensors[name]) for name in node.input[1:])
        scale = gamma / factor(var, next(a.f for a in node.attribute if a.name == "epsilon"))
        weight = numpy_helper.to_array(tensors[conv.input[1]]) * scale[:, None, None, None]
        tensors[conv.input[1]].CopyFrom(numpy_helper.from_array(weight.astype(np.float32), conv.input[1]))
        bias = numpy_helper.from_array((beta - mean * scale).astype(np.float32), f"{conv.name}.bias")
        result.graph.initializer.append(bias)
        conv.input.append(bias.name)
        conv.output[0] = node.output[0]
        for name in node.input[1:]:
            result.graph.initializer.remove(tensors[name])
        result.graph.node.remove(node)
    return result


def equalized(model: ModelProto, layers: Sequence[str]) -> ModelProto:
    """Cross-layer equalization of a folded model: channels between neighbouring convolutions rescaled."""
    result = ModelProto.FromString(model.SerializeToString())
    arrays = {t.name: numpy_helper.to_array(t).copy() for t in result.graph.initializer}
    for first, second in pairwise(layers):
        a, b = arrays[f"{first}.weight"], arrays[f"{second}.weight"]
        ranges = np.abs(a).max(axis=(1, 2, 3)), np.abs(b).max(axis=(0, 2, 3))
        scale = np.sqrt(ranges[0] * ranges[1]) / ranges[1]
        arrays[f"{first}.weight"] = a / scale[:, None, None, None]
        arrays[f"{first}.bias"] = arrays[f"{first}.bias"] / scale
        arrays[f"{second}.weight"] = b * scale[None, :, None, None]
    for tensor in result.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(arrays[tensor.name].astype(np.float32), tensor.name))
    return result


def aimet(
    network: FloatNetwork,
    model: ModelProto,
    *,
    bits: int = 8,
    per_channel: bool = True,
    stores_codes: bool = True,
    spread: Callable[[str, Floats], Floats] = lambda _, largest: largest,
    ranges: Mapping[str, float] | None = None,
) -> ModelProto:
    """QDQ as AIMET's `to_onnx_qdq` lays it out: `NAME_q` and `NAME_qdq` around weights, int32 biases and activations.

    Args:
        model: with BatchNormalization folded.
        stores_codes: weights as codes; else as floats behind a QuantizeLinear, which is what AIMET does by default.
        spread: the range of a weight's channels from its name and their largest magnitudes.
        ranges: factors on the calibrated ranges of activations.
    """
    result = ModelProto.FromString(model.SerializeToString())
    graph = result.graph
    arrays = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    seen = _values(model, network)
    nodes: list[onnx.NodeProto] = []
    tensors: dict[str, NDArray[Any]] = {}
    scales: dict[str, NDArray[np.float32]] = {}
    top = (1 << (bits - 1)) - 1

    def quantized(name: str) -> None:
        low, high = min(float(seen[name].min()), 0.0), max(float(seen[name].max()), 0.0)
        factor = (ranges or {}).get(name, 1.0)
        scale = np.float32(max(high - low, 1e-6) * factor / 255)
        tensors[f"{name}_scale"] = np.array(scale)
        tensors[f"{name}_zero_point"] = np.array(np.clip(np.rint(-low * factor / scale), 0, 255), dtype=np.uint8)
        scales[name] = tensors[f"{name}_scale"]
        is_output = name in outputs
        parts = [f"{name}_scale", f"{name}_zero_point"]
        source, made = (f"{name}_raw", name) if is_output else (name, f"{name}_qdq")
        nodes.append(helper.make_node("QuantizeLinear", [source, *parts], [f"{name}_q"], f"{name}_q"))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", *parts], [made], f"{name}_dq"))
        renamed[name] = made

    outputs = {value.name for value in graph.output}
    renamed: dict[str, str] = {}
    for value in graph.input:
        quantized(value.name)
    for node in graph.node:
        copy = nodes.append
        source = node.input[0]
        inputs = [renamed.get(name, name) for name in node.input]
        if node.op_type in ("Conv", "Gemm"):
            weight, bias = node.input[1], node.input[2]
            values = arrays[weight]
            axes = tuple(range(1, values.ndim))
            largest = np.abs(values).max(axis=axes) if per_channel else np.abs(values).max(keepdims=True).reshape(1)
            scale = (spread(weight, largest) / top).astype(np.float32)
            facing = scale.reshape(-1, *[1] * (values.ndim - 1))
            codes = np.clip(np.rint(values / facing), -top - 1, top).astype(np.int8)
            shape = {"axis": 0} if per_channel else {}
            tensors[f"{weight}_scale"] = scale if per_channel else scale[0]
            tensors[f"{weight}_zero_point"] = np.zeros(tensors[f"{weight}_scale"].shape, np.int8)
            parts = [f"{weight}_scale", f"{weight}_zero_point"]
            if stores_codes:
                tensors[f"{weight}_q"] = codes
            else:
                tensors[weight] = values
                copy(helper.make_node("QuantizeLinear", [weight, *parts], [f"{weight}_q"], f"{weight}_q", **shape))
            copy(
                helper.make_node(
                    "DequantizeLinear", [f"{weight}_q", *parts], [f"{weight}_qdq"], f"{weight}_dq", **shape
                )
            )
            step = np.broadcast_to(scales[source] * scale, arrays[bias].shape).astype(np.float32)
            tensors[f"{bias}_q"] = np.rint(arrays[bias] / step).astype(np.int32)
            tensors[f"{bias}_scale"] = step if per_channel else step[0]
            tensors[f"{bias}_zero_point"] = np.zeros(tensors[f"{bias}_scale"].shape, np.int32)
            parts = [f"{bias}_q", f"{bias}_scale", f"{bias}_zero_point"]
            copy(helper.make_node("DequantizeLinear", parts, [f"{bias}_qdq"], f"{bias}_dq", **shape))
            inputs[1:3] = [f"{weight}_qdq", f"{bias}_qdq"]
        made = node.output[0]
        changed = onnx.NodeProto.FromString(node.SerializeToString())
        del changed.input[:]
        changed.input.extend(inputs)
        if made in outputs:
            changed.output[0] = f"{made}_raw"
        copy(changed)
        if node.op_type in ("Relu", "GlobalAveragePool") or made in outputs:
            quantized(made)
        elif node.op_type == "Flatten":
            scales[made] = scales[source]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(numpy_helper.from_array(np.asarray(array), name) for name, array in tensors.items())
    onnx.checker.check_model(result)
    return result


def _values(model: ModelProto, network: FloatNetwork) -> dict[str, NDArray[Any]]:
    """All values of the calibration images, by name."""
    every = ModelProto.FromString(model.SerializeToString())
    names = [name for node in every.graph.node for name in node.output]
    del every.graph.output[:]
    every.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    session = onnxruntime.InferenceSession(every.SerializeToString(), providers=["CPUExecutionProvider"])
    images = {name: array[:_IMAGES] for name, array in network.inputs.items()}
    return images | dict(zip(names, session.run(names, images), strict=True))
