"""Steps of an export that quantize activations, and store biases as `quantization.activations.kernels` needs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from network.onnx_graph import graphs, opset_of
from quantization.activations.biases import exact_codes
from quantization.activations.kernels import Bias, KernelUse
from quantization.activations.quantized import QuantizedActivation
from quantization.errors import QuantizationError
from quantization.export.passes import (
    ACTIVATION_LETTERS,
    BIAS_LETTERS,
    Pass,
    add_functions,
    insert_nodes,
    short_names,
)
from quantization.storage.dequantize import BIAS, bias_call, bias_function

SCALE, ZERO_POINT, CODES, CAPPED, RAW, VALUES, CAP = tuple(ACTIVATION_LETTERS)
BIAS_CODES, BIAS_SCALE, BIAS_VALUES = tuple(BIAS_LETTERS)


class QuantizeTensors(Pass):
    """QuantizeLinear and DequantizeLinear on tensors; whoever reads the tensor then reads the dequantized one.

    Codes are uint8, for 16 bits uint16. A tensor of 4 bits is uint8 with its codes capped at 15: ONNX Runtime has no
    kernel for uint4 and refuses or breaks graphs with it, while these codes run in the kernels for 8 bits.

    A tensor whose values are only moved from another of these has that one's parameters. Up to 8 bits it gets its own
    pair of nodes, so that ONNX Runtime moves the codes; at 16 it already holds rounded values and gets nothing.

    Args:
        activations: by tensor name.
        moved: for tensors whose values are moved from another, that one.
    """

    def __init__(self, activations: Mapping[str, QuantizedActivation], moved: Mapping[str, str]) -> None:
        self._activations = activations
        self._moved = moved
        self.scales: dict[str, str] = {}
        """Names of the initializers that hold the scales, by tensor name; filled by `call`."""

    def requires(self, draft: onnx.ModelProto) -> None:
        """Every tensor is an input of the graph or made by a node of it; what is moved agrees with what it is from."""
        there = {value.name for value in draft.graph.input} | {n for node in draft.graph.node for n in node.output if n}
        there -= {tensor.name for tensor in draft.graph.initializer}
        if unknown := [name for name in self._activations if name not in there]:
            raise QuantizationError(f"activations {', '.join(unknown)} are no values of the network's main graph")
        for name, activation in self._activations.items():
            source = self._activations.get(self._moved.get(name, ""))
            if source is not None and source != activation:
                raise QuantizationError(
                    f"activation {name} only moves values of {self._moved[name]}, quantized as {source}, and must have "
                    f"the same parameters; got {activation}"
                )

    def call(self, draft: onnx.ModelProto) -> None:
        graph, names = draft.graph, short_names(draft.graph)
        made_by = {output: index for index, node in enumerate(graph.node) for output in node.output}
        cap = ""
        if any(_is_capped(activation) for activation in self._activations.values()):
            cap = CAP + next(names)
            graph.initializer.append(numpy_helper.from_array(np.array(15, dtype=np.uint8), cap))
        behind: dict[int, list[onnx.NodeProto]] = {}
        for name in [*(value.name for value in graph.input), *made_by]:
            if name not in self._activations:
                continue
            activation, source = self._activations[name], self._moved.get(name, "")
            is_moved = source in self.scales
            if is_moved:
                self.scales[name] = self.scales[source]
                if activation.format.bits > 8:
                    continue
            suffix = next(names)
            if not is_moved:
                self.scales[name] = SCALE + suffix
                graph.initializer.extend(_parameters(activation, suffix))
            if name in made_by:
                values, read = RAW + suffix, name
                _rename_output(graph.node[made_by[name]], name, values)
            else:
                values, read = name, VALUES + suffix
                _rename_inputs(graph, name, read)
            capped = cap if _is_capped(activation) and not is_moved else ""
            nodes = _pair(self.scales[name], suffix, values, read, capped)
            behind.setdefault(made_by.get(name, -1), []).extend(nodes)
        insert_nodes(graph, behind)

    def ensures(self, draft: onnx.ModelProto) -> None:
        """Every tensor that was asked for has its parameters in the file."""
        there = {tensor.name for tensor in draft.graph.initializer}
        if missing := [name for name in self._activations if self.scales.get(name) not in there]:
            raise QuantizationError(f"the draft lacks the scales of {', '.join(missing)}")


class StoreBiases(Pass):
    """Give layers with quantized inputs the bias that keeps them on integers, or that keeps them off.

    Args:
        uses: from `quantization.activations.kernels`.
        biases: by node name, for every use that has a `bias`: int32 codes where `scales` names the node, else float32.
        scales: the names of the scales of input and weight, by node name.
    """

    def __init__(
        self, uses: Sequence[KernelUse], biases: Mapping[str, NDArray[Any]], scales: Mapping[str, tuple[str, str]]
    ) -> None:
        self._places = [
            (use.node, use.bias)
            for use in uses
            if use.bias is not None and (use.bias.initializer is not None or use.node not in scales)
        ]
        self._biases = biases
        self._scales = scales

    def requires(self, draft: onnx.ModelProto) -> None:
        """Every bias is where it was, and finite."""
        nodes = {node.name: node for node in draft.graph.node}
        for layer, bias in self._places:
            node = nodes.get(bias.node)
            found = node.input[bias.place] if node is not None and len(node.input) > bias.place else ""
            if node is None or (found or None) != bias.initializer:
                raise QuantizationError(f"node {bias.node} has no bias {bias.initializer} as its input {bias.place}")
            if not np.isfinite(self._biases[layer]).all():
                raise QuantizationError(f"the bias of {layer} is not finite; export the network again")

    def call(self, draft: onnx.ModelProto) -> None:
        names = short_names(draft.graph)
        nodes = {node.name: node for node in draft.graph.node}
        made = []
        for layer, bias in self._places:
            suffix = next(names)
            if layer in self._scales:
                draft.graph.initializer.append(numpy_helper.from_array(self._biases[layer], BIAS_CODES + suffix))
                made.append(bias_call([BIAS_CODES + suffix, *self._scales[layer]], BIAS_VALUES + suffix))
            else:
                made.append(_exact(draft.graph, bias, self._biases[layer], suffix))
            inputs = nodes[bias.node].input
            inputs.extend([""] * (bias.place + 1 - len(inputs)))
            inputs[bias.place] = BIAS_VALUES + suffix
        insert_nodes(draft.graph, {-1: made})
        if any(layer in self._scales for layer, _ in self._places):
            add_functions(draft, {BIAS: bias_function(opset_of(draft))})
        _drop_unread(draft.graph, {bias.initializer for _, bias in self._places if bias.initializer})

    def ensures(self, draft: onnx.ModelProto) -> None:
        """Every layer reads a bias that a node makes."""
        made = {output for node in draft.graph.node for output in node.output}
        nodes = {node.name: node for node in draft.graph.node}
        for layer, bias in self._places:
            if nodes[bias.node].input[bias.place] not in made:
                raise QuantizationError(f"layer {layer} lost its bias")


def _exact(graph: onnx.GraphProto, bias: Bias, values: NDArray[np.float32], suffix: str) -> onnx.NodeProto:
    """A DequantizeLinear that makes `values` to the bit, and its tensors."""
    codes, scale = exact_codes(values)
    if bias.initializer is None:  # zeros, and one scale is enough
        scale = np.ones((), dtype=np.float32)
    graph.initializer.append(numpy_helper.from_array(codes, BIAS_CODES + suffix))
    graph.initializer.append(numpy_helper.from_array(scale, BIAS_SCALE + suffix))
    inputs = [BIAS_CODES + suffix, BIAS_SCALE + suffix]
    return helper.make_node("DequantizeLinear", inputs, [BIAS_VALUES + suffix], axis=0)


def _pair(scale: str, suffix: str, values: str, read: str, cap: str) -> list[onnx.NodeProto]:
    """The nodes that round `values` and give them as `read`, with codes of at most `cap` where one is named."""
    zero_point, codes = ZERO_POINT + scale[len(SCALE) :], CODES + suffix
    nodes = [helper.make_node("QuantizeLinear", [values, scale, zero_point], [codes])]
    if cap:
        nodes.append(helper.make_node("Clip", [codes, "", cap], [CAPPED + suffix]))
        codes = CAPPED + suffix
    return [*nodes, helper.make_node("DequantizeLinear", [codes, scale, zero_point], [read])]


def _is_capped(activation: QuantizedActivation) -> bool:
    return activation.format.bits == 4


def _parameters(activation: QuantizedActivation, suffix: str) -> list[onnx.TensorProto]:
    code_type = np.uint16 if activation.format.bits == 16 else np.uint8
    return [
        numpy_helper.from_array(np.array(activation.scale, dtype=np.float32), SCALE + suffix),
        numpy_helper.from_array(np.array(activation.zero_point, dtype=code_type), ZERO_POINT + suffix),
    ]


def _rename_output(node: onnx.NodeProto, old: str, new: str) -> None:
    node.output[list(node.output).index(old)] = new


def _rename_inputs(graph: onnx.GraphProto, old: str, new: str) -> None:
    """All readers of a graph input, inner graphs and outputs that are passed through included, read `new`."""
    for inner in graphs(graph):
        for node in inner.node:
            for place, name in enumerate(node.input):
                if name == old:
                    node.input[place] = new


def _drop_unread(graph: onnx.GraphProto, initializers: set[str]) -> None:
    """Remove those of `initializers` that nothing reads any more."""
    read = {name for inner in graphs(graph) for node in inner.node for name in node.input}
    read |= {value.name for inner in graphs(graph) for value in inner.output}
    kept = [tensor for tensor in graph.initializer if tensor.name not in initializers or tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
