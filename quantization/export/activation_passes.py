"""Steps of an export that quantize activations, and store biases as `quantization.activations.kernels` needs them."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from network.onnx_graph import names_read, opset_of, own_inputs
from quantization.activations.biases import exact_codes
from quantization.activations.kernels import Bias, KernelUse
from quantization.activations.quantized import QuantizedActivation
from quantization.errors import QuantizationError
from quantization.export.passes import (
    ACTIVATION_LETTERS,
    BIAS_LETTERS,
    add_functions,
    insert_nodes,
    rename_reads,
    short_names,
)
from quantization.storage.dequantize import BIAS, bias_call, bias_function

SCALE, ZERO_POINT, CODES, CAPPED, RAW, VALUES, CAP = tuple(ACTIVATION_LETTERS)
BIAS_CODES, BIAS_SCALE, BIAS_VALUES = tuple(BIAS_LETTERS)


def quantize_tensors(
    draft: onnx.ModelProto, activations: Mapping[str, QuantizedActivation], moved: Mapping[str, str]
) -> dict[str, str]:
    """QuantizeLinear and DequantizeLinear on tensors; whoever reads the tensor then reads the dequantized one.

    Codes are uint8, for 16 bits uint16. A tensor of 4 bits is uint8 with its codes capped at 15: ONNX Runtime has no
    kernel for uint4 and refuses or breaks graphs with it, while these codes run in the kernels for 8 bits.

    A tensor whose values are only moved from another of these has that one's parameters. Up to 8 bits it gets its own
    pair of nodes, so that ONNX Runtime moves the codes; at 16 it already holds rounded values and gets nothing.

    Args:
        activations: by tensor name.
        moved: for tensors whose values are moved from another, that one.

    Returns:
        The names of the initializers that hold the scales, by tensor name.

    Raises:
        QuantizationError: a tensor is neither an input of the graph nor made by a node of it, or what is moved does not
            agree with what it is moved from.
    """
    graph, names = draft.graph, short_names(draft.graph)
    made_by = {output: index for index, node in enumerate(graph.node) for output in node.output if output}
    inputs = [value.name for value in own_inputs(graph)]
    _check(activations, moved, {*inputs, *made_by})
    scales: dict[str, str] = {}
    cap = ""
    if any(_is_capped(activation) for activation in activations.values()):
        cap = CAP + next(names)
        graph.initializer.append(numpy_helper.from_array(np.array(15, dtype=np.uint8), cap))
    behind: dict[int, list[onnx.NodeProto]] = {}
    for name in [*inputs, *made_by]:
        if name not in activations:
            continue
        activation, source = activations[name], moved.get(name, "")
        is_moved = source in scales
        if is_moved:
            scales[name] = scales[source]
            if activation.format.bits > 8:
                continue
        suffix = next(names)
        if not is_moved:
            scales[name] = SCALE + suffix
            graph.initializer.extend(_parameters(activation, suffix))
        if name in made_by:
            values, read = RAW + suffix, name
            outputs = graph.node[made_by[name]].output
            outputs[list(outputs).index(name)] = values
        else:
            values, read = name, VALUES + suffix
            rename_reads(graph, name, read)
        capped = cap if _is_capped(activation) and not is_moved else ""
        behind.setdefault(made_by.get(name, -1), []).extend(_pair(scales[name], suffix, values, read, capped))
    insert_nodes(graph, behind)
    return scales


def _check(activations: Mapping[str, QuantizedActivation], moved: Mapping[str, str], values: Container[str]) -> None:
    if unknown := [name for name in activations if name not in values]:
        raise QuantizationError(f"activations {', '.join(unknown)} are no values of the network's main graph")
    for name, activation in activations.items():
        source = activations.get(moved.get(name, ""))
        if source is not None and source != activation:
            raise QuantizationError(
                f"activation {name} only moves values of {moved[name]}, quantized as {source}, and must have "
                f"the same parameters; got {activation}"
            )


def store_biases(
    draft: onnx.ModelProto,
    uses: Iterable[KernelUse],
    biases: Mapping[str, NDArray[Any]],
    scales: Mapping[str, tuple[str, str]],
) -> None:
    """Give layers with quantized inputs the bias that keeps them on integers, or that keeps them off.

    Args:
        uses: from `quantization.activations.kernels`.
        biases: by node name, for every use that has a `bias`: int32 codes where `scales` names the node, else float32.
        scales: the names of the scales of input and weight, by node name.

    Raises:
        QuantizationError: a bias is not finite.
    """
    graph, names = draft.graph, short_names(draft.graph)
    nodes = {node.name: node for node in graph.node}
    made, replaced = [], set()
    for use in uses:
        layer, bias = use.node, use.bias
        if bias is None or (bias.initializer is None and layer in scales):
            continue
        if not np.isfinite(biases[layer]).all():
            raise QuantizationError(f"the bias of {layer} is not finite; export the network again")
        suffix = next(names)
        if layer in scales:
            graph.initializer.append(numpy_helper.from_array(biases[layer], BIAS_CODES + suffix))
            made.append(bias_call([BIAS_CODES + suffix, *scales[layer]], BIAS_VALUES + suffix))
        else:
            made.append(_exact(graph, bias, biases[layer], suffix))
        if bias.initializer:
            replaced.add(bias.initializer)
        inputs = nodes[bias.node].input
        inputs.extend([""] * (bias.place + 1 - len(inputs)))
        inputs[bias.place] = BIAS_VALUES + suffix
    insert_nodes(graph, {-1: made})
    if any(node.op_type == BIAS for node in made):
        add_functions(draft, {BIAS: bias_function(opset_of(draft))})
    _drop_unread(graph, replaced)


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


def _drop_unread(graph: onnx.GraphProto, initializers: set[str]) -> None:
    """Remove those of `initializers` that nothing reads any more."""
    if not initializers:
        return
    read = {name for node in graph.node for name in names_read(node)} | {value.name for value in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name not in initializers or tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
