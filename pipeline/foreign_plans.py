"""The plan in the words of other tools: ONNX Runtime's quantizer, and AIMET.

Both round the float weights anew, each to its nearest code: the widths and the grids are those of the plan, GPTQ's
rounding is in the delivered file alone.

A scale of this service may be negative, so that the one code more on the negative side serves either tail. ONNX Runtime
takes that as it is. AIMET's scales are positive: there, the same grid is a positive scale with its offset moved by one.

What is said of AIMET was found with aimet-onnx 2.42, `load_encodings_to_sim`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from network.graph import Layer, Network, Site
from network.model_file import ModelFile
from network.sites import RECURRENT
from quantization.activations.quantized import QuantizedActivation
from quantization.formats import FloatFormat, Granularity, HalfFormat
from quantization.storage.weights import IntegerWeight, QuantizedWeight

Weights = Mapping[str, QuantizedWeight]
Activations = Mapping[str, QuantizedActivation]
Notes = list[dict[str, str]]

AIMET_VERSION = "1.0.0"
"""Of the encodings: a list of tensors, each with its scales and offsets (AIMET 1.33 and later)."""

AIMET_CHANNEL_AXES = {"Conv": 0, "ConvTranspose": 1, "MatMul": -1}
"""The axis that AIMET takes the scales of a weight to lie along, by operator; of Gemm the one that `transB` says."""

# Types of `onnxruntime.quantization.QuantType` by width; it has none of 2, 3, 5, 6 or 7 bits.
WEIGHT_TYPES = {4: "QInt4", 8: "QInt8"}
ACTIVATION_TYPES = {4: "QUInt4", 8: "QUInt8", 16: "QUInt16"}


@dataclass(frozen=True)
class UploadedTensors:
    """What the upload calls its tensors and nodes; the plan is about the network that was made from it.

    `normalised` gives by the output of a BatchNormalization the tensor that it normalises, unless the output is one of
    the graph.
    """

    initializers: ModelFile
    values: frozenset[str]
    nodes: frozenset[str]
    normalised: Mapping[str, str]

    @classmethod
    def read(cls, path: Path) -> UploadedTensors:
        file = ModelFile(path)
        graph = file.graph
        values = {value.name for value in graph.input} | {name for node in graph.node for name in node.output}
        outputs = {value.name for value in graph.output}
        normalised = {
            node.output[0]: node.input[0]
            for node in graph.node
            if node.op_type == "BatchNormalization" and node.output[0] not in outputs
        }
        return cls(file, frozenset(values), frozenset(node.name for node in graph.node), normalised)

    def has_weight(self, network: Network, name: str) -> bool:
        """Whether the upload has an initializer of this name with the very same values: a folded one has others."""
        if name not in self.initializers:
            return False
        tensor = self.initializers.initializer(name)
        if tensor.data_type != onnx.TensorProto.FLOAT:
            return False
        return bool(np.array_equal(numpy_helper.to_array(tensor), network.weight(name)))


def tensor_overrides(
    network: Network,
    plan: Mapping[str, Any],
    weights: Weights,
    activations: Activations,
    uploaded: UploadedTensors,
) -> dict[str, Any]:
    """`TensorQuantOverrides` for `onnxruntime.quantization.quantize_static` on the uploaded file, types by their names.

    A weight whose width ONNX Runtime lacks gets the next wider type and no scale: the range is then found anew. What
    differs from the plan stands in `notes`.

    Args:
        plan: as delivered.
        weights: rounded, by initializer name; the others stay float32.
        activations: by tensor name.
    """
    notes: Notes = []
    overrides: dict[str, list[dict[str, Any]]] = {}
    kept: list[str] = []
    for site in network.sites:
        weight = weights.get(site.weight)
        if weight is None or isinstance(weight.format, HalfFormat):
            kept += [layer.name for layer in site.layers]
        else:
            same = uploaded.has_weight(network, site.weight)
            overrides |= _weight_override(site, weight, same, uploaded, notes)
    for tensor, own in activations.items():
        if tensor not in uploaded.values:
            notes.append(_note(tensor, "the uploaded file has no tensor of this name: left out"))
            continue
        type_ = ACTIVATION_TYPES[own.format.bits]
        overrides[tensor] = [{"quant_type": type_, "scale": own.scale, "zero_point": own.zero_point}]
    notes += [
        _note(node, "the uploaded file has no node of this name, so that it cannot be excluded")
        for node in kept
        if node not in uploaded.nodes
    ]
    notes += _activation_notes(plan)
    return {
        "format": "onnxruntime.quantization TensorQuantOverrides",
        # QDQQuantizer looks for types that need opset 21 or its own domain at the first tensor only
        "tensor_quant_overrides": dict(sorted(overrides.items(), key=lambda item: item[1][0]["quant_type"][-1] == "8")),
        "nodes_to_exclude": [node for node in kept if node in uploaded.nodes],
        "notes": notes,
    }


def _weight_override(
    site: Site, weight: QuantizedWeight, same: bool, uploaded: UploadedTensors, notes: Notes
) -> dict[str, list[dict[str, Any]]]:
    """The override of one weight by its name, none where ONNX Runtime's quantizer cannot follow the plan."""
    if site.weight not in uploaded.initializers:
        notes.append(_note(site.weight, "the uploaded file has no initializer of this name: left out"))
        return {}
    grid = _grid(weight)
    if grid is None:
        notes.append(_note(site.weight, f"ONNX Runtime's quantizer has nothing like {weight.format.name}: left out"))
        return {}
    if grid.scale.ndim and not isinstance(site.channel_axis, int):
        notes.append(_note(site.weight, "ONNX Runtime's quantizer has no scales for each matrix of a stack: left out"))
        return {}
    bits = min(width for width in WEIGHT_TYPES if width >= grid.format.bits)
    first: dict[str, Any] = {"quant_type": WEIGHT_TYPES[bits]}
    if grid.scale.ndim:
        first["axis"] = site.channel_axis
    if bits != grid.format.bits:
        notes.append(_note(site.weight, f"it has no width of {grid.format.bits} bits: the nearest wider, {bits}"))
    elif not same:
        notes.append(_note(site.weight, "the uploaded file has other values here, so that its range is found anew"))
    else:
        pairs = zip(grid.scale.reshape(-1), _zero_points(grid), strict=True)
        channels = [{"scale": float(scale), "zero_point": int(zero_point)} for scale, zero_point in pairs]
        return {site.weight: [{**first, **channels[0]}, *channels[1:]]}
    return {site.weight: [{**first, "symmetric": grid.format.symmetric}]}


def _activation_notes(plan: Mapping[str, Any]) -> Notes:
    floats = [row["tensors"][0] for row in plan["activations"] if row["format"] == FloatFormat().name]
    text = "float32 in the plan; quantize_static gives what its quantized nodes read or write the activation_type"
    if not plan["activations"]:
        return [_note("", f"activations are {text}")]
    return [_note(name, text) for name in floats]


def aimet_encodings(
    network: Network, weights: Weights, activations: Activations, uploaded: UploadedTensors
) -> dict[str, Any]:
    """AIMET's encodings of version 1.0.0: `value = scale * (code + offset)`, codes 0 to `2**bw - 1`.

    They are for the uploaded file, once AIMET has folded its BatchNorm. There is no encoding of float32: a tensor
    without one stays that. A single tensor that AIMET does not know would make it refuse all: it is left out.

    Args:
        weights: rounded, by initializer name; the others stay float32.
        activations: by tensor name.
    """
    notes: Notes = []
    params = []
    for site in network.sites:
        name = site.weight
        if name not in weights:
            continue
        encoding = _weight_encoding(site, weights[name], uploaded)
        if isinstance(encoding, str):
            notes.append(_note(name, f"{encoding}: left out"))
            continue
        params.append({"name": name, **encoding})
        if not uploaded.has_weight(network, name):
            notes.append(_note(name, "the uploaded file has other values here: fold BatchNorm into it with AIMET"))
    return {
        "version": AIMET_VERSION,
        "producer": f"bitbudget {version('bitbudget')}",
        "param_encodings": params,
        "activation_encodings": list(_activation_encodings(network, activations, uploaded, notes)),
        "notes": notes,
    }


def _weight_encoding(site: Site, weight: QuantizedWeight, uploaded: UploadedTensors) -> dict[str, Any] | str:
    """The encoding of one weight, or why there is none."""
    if site.weight not in uploaded.initializers:
        return "the uploaded file has no initializer of this name"
    if isinstance(weight.format, HalfFormat):
        return {"enc_type": "PER_TENSOR", "dtype": "FLOAT", "bw": 16}
    grid = _grid(weight)
    if grid is None:
        return f"these encodings have nothing like {weight.format.name}"
    if grid.scale.ndim:
        others = sorted({layer.op_type for layer in site.layers if not _along_channels(layer, grid)})
        if others:
            return f"AIMET has no scales along this axis of a weight of {', '.join(others)}"
    return _integer_encoding(grid)


def _along_channels(layer: Layer, weight: IntegerWeight) -> bool:
    """Whether AIMET takes the scales of `weight`, which are more than one, to lie along the axis that they do."""
    axis = layer.channel_axis if layer.op_type == "Gemm" else AIMET_CHANNEL_AXES.get(layer.op_type)
    return axis is not None and weight.scale.shape[axis] == weight.scale.size


def _integer_encoding(weight: IntegerWeight) -> dict[str, Any]:
    format_, scales, zero_points = weight.format, weight.scale.reshape(-1).astype(np.float64), _zero_points(weight)
    # with a scale of the other sign the highest code stands for the lowest value
    offsets = np.where(scales > 0, format_.lowest_code - zero_points, zero_points - format_.highest_code)
    return {
        "enc_type": "PER_CHANNEL" if weight.scale.ndim else "PER_TENSOR",
        "dtype": "INT",
        "bw": format_.bits,
        # of a symmetric encoding another offset would say that its lowest code is not used
        "is_sym": bool((offsets == format_.lowest_code).all()),
        "scale": np.abs(scales).tolist(),
        "offset": offsets.tolist(),
    }


def _activation_encodings(
    network: Network, activations: Activations, uploaded: UploadedTensors, notes: Notes
) -> Iterator[dict[str, Any]]:
    """With BatchNorm folded, AIMET calls the tensor like what was normalised, `network` like the result."""
    nodes = network.proto.graph.node
    kept = {node.output[0] for node in nodes if node.op_type == "BatchNormalization"}
    recurrent = {name for node in nodes if node.op_type in RECURRENT for name in node.output}
    for tensor, own in activations.items():
        name = tensor if tensor in kept else uploaded.normalised.get(tensor, tensor)
        if tensor in recurrent:
            notes.append(_note(tensor, "AIMET would give what the recurrent layer reads the same scale: left out"))
            continue
        if name not in uploaded.values:
            notes.append(_note(tensor, "the uploaded file has no tensor of this name: left out"))
            continue
        yield {
            "name": name,
            "enc_type": "PER_TENSOR",
            "dtype": "INT",
            "bw": own.format.bits,
            "is_sym": False,
            "scale": [own.scale],
            "offset": [-own.zero_point],
        }


def _grid(weight: QuantizedWeight) -> IntegerWeight | None:
    """The weight, if its codes are steps of one scale for each channel, or for the tensor."""
    if isinstance(weight, IntegerWeight) and weight.format.granularity is not Granularity.BLOCK:
        return weight
    return None


def _zero_points(weight: IntegerWeight) -> NDArray[np.int64]:
    """One for each scale, 0 where the format is symmetric."""
    if weight.zero_point is None:
        return np.zeros(weight.scale.size, dtype=np.int64)
    return weight.zero_point.reshape(-1).astype(np.int64)


def _note(tensor: str, note: str) -> dict[str, str]:
    return {"tensor": tensor, "note": note}
