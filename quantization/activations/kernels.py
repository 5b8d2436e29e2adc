"""Which layers ONNX Runtime runs as integer kernels, and which it must be kept from quantizing behind our back.

Read from the optimiser of ONNX Runtime 1.31 (CPU) and tested against it:

- `QLinearConv`, `QGemm`, `QLinearMatMul` and `MatMulIntegerToFloat` come from a layer whose input and weight are made
  by DequantizeLinear and whose output, behind at most a Relu or a Clip, is quantized to the same type; a Gemm or MatMul
  without such a Relu or Clip may leave its output float. They take a bias of int32 codes with the scale input scale x
  weight scale. A MatMul and the Add of a constant vector behind it become one Gemm.
- A weight of 4 or 2 bits is no operand of theirs: int4 is run in float, and int2 ends in a QLinearConv that refuses it.
  So all codes are unpacked to int8.
- A Conv, ConvTranspose or Gemm with *float* weight between quantized tensors gets its weight rounded to 8 bits at one
  scale by ONNX Runtime itself, silently. It leaves a layer alone whose bias is not a plain vector, so the bias of such
  a layer is stored as a DequantizeLinear of int32 with powers of two as scales: the same numbers, bit for bit.
- On x86 without VNNI and asked for exact kernels (`session.x64quantprecision`) it turns int8 codes beyond 64, and their
  zero points, into uint8 for each kernel, in new tensors called after the old ones; where two kernels share one of them
  it then refuses the file. So those of a weight of 8 bits are copied at load, for each kernel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

from network.activations import constant_shapes, sole_readers
from network.graph import ChannelAxis, Network
from network.onnx_graph import attributes
from quantization.formats import Format, IntegerFormat, UnsignedFormat

_GUARDED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True, slots=True)
class Bias:
    """Input `place` of the node called `node`: the vector `initializer`, or none so far, of `channels` elements."""

    node: str
    place: int
    initializer: str | None
    channels: int


@dataclass(frozen=True, slots=True)
class KernelUse:
    """A layer whose `input` is quantized: it runs on integers, or is guarded so that it stays as it is.

    `axis` is the one of the weight's output channels. `bias` is None where the layer has no place for a vector; one
    that has the place but no vector needs it in floats only, as a guard.
    """

    node: str
    weight: str
    input: str
    axis: int
    bias: Bias | None
    integer: bool


@dataclass(frozen=True, slots=True)
class WeightKernel:
    """A weight that integer kernels take: the `nodes` that they are, its axis of output channels, and whether `others`
    read the weight too, in float."""

    nodes: frozenset[str]
    axis: int
    others: bool

    def copies(self, bits: float) -> int:
        """How often it is made for its kernels if it has so many bits."""
        return len(self.nodes) if bits == 8 else 1


def weight_kernels(network: Network, uses: Sequence[KernelUse]) -> dict[str, WeightKernel]:
    """The weights that integer kernels take, by initializer name."""
    nodes: dict[str, set[str]] = {}
    axes: dict[str, int] = {}
    for use in uses:
        if use.integer:
            nodes.setdefault(use.weight, set()).add(use.node)
            axes[use.weight] = use.axis
    readers = {weight: {node.name for node in network.readers[weight]} for weight in nodes}
    outputs = {spec.name for spec in network.outputs}
    return {
        weight: WeightKernel(frozenset(names), axes[weight], weight in outputs or readers[weight] > names)
        for weight, names in nodes.items()
    }


def with_kernels(formats: Mapping[str, Format]) -> frozenset[str]:
    """Of weights by name those whose format integer kernels take."""
    return frozenset(name for name, own in formats.items() if isinstance(own, IntegerFormat) and own.has_kernel)


def made_for(kernel: WeightKernel | None) -> tuple[int | None, ...]:
    """The forms in which a weight is made: None is float, a number the axis of an integer kernel."""
    if kernel is None:
        return (None,)
    return (None, kernel.axis) if kernel.others else (kernel.axis,)


def kernel_uses(
    network: Network, quantized: Mapping[str, ChannelAxis], activations: Mapping[str, UnsignedFormat]
) -> tuple[KernelUse, ...]:
    """All layers that need another form than a float weight, in graph order.

    A weight that is computed from constants counts: ONNX Runtime folds it, and then rounds it like any other.

    Args:
        quantized: the initializers that integer kernels can take (`with_kernels`), and the axis along which each has
            its scales.
        activations: formats by tensor name.
    """
    read = [n for n in network.proto.graph.node if n.op_type in _GUARDED and n.input[0] in activations]
    if not read:
        return ()
    layers = {layer.name: layer for layer in network.layers()}
    readers = sole_readers(network)
    made = {n.input[1] for n in read} - network.initializers.keys()
    shapes = constant_shapes(network) if made else {}
    uses = []
    for node in read:
        layer, weight = layers.get(node.name), node.input[1]
        if weight in network.initializers:
            shape: tuple[int, ...] = tuple(network.initializers[weight].dims)
        elif weight in shapes:
            shape, layer = shapes[weight], None
        else:
            continue
        axis = layer.channel_axis if layer is not None else _channel_axis(node, len(shape))
        group = attributes(node).get("group", 1) if node.op_type == "ConvTranspose" else 1
        bias, output = _bias(network, node, shape[axis] * group, readers, activations)
        integer = (
            layer is not None
            and quantized.get(weight) == axis  # layers of a tied weight may differ in theirs
            and bias is not None
            and _is_plain(node, len(shape))
            and _runs_on_integers(network, node, output, readers, activations)
        )
        if node.op_type == "MatMul" and bias is not None and bias.initializer is None:
            bias = None  # nothing that it could become is quantized unasked
        if integer or bias is not None:
            uses.append(KernelUse(node.name, weight, node.input[0], axis, bias, integer))
    return tuple(uses)


def _channel_axis(node: onnx.NodeProto, rank: int) -> int:
    """The axis of output channels of a weight at input 1."""
    match node.op_type:
        case "Conv":
            return 0
        case "Gemm":
            return 0 if attributes(node).get("transB", 0) else 1
        case "MatMul":
            return rank - 1
    return 1


def _bias(
    network: Network,
    node: onnx.NodeProto,
    channels: int,
    readers: Mapping[str, onnx.NodeProto],
    activations: Mapping[str, UnsignedFormat],
) -> tuple[Bias | None, str]:
    """The bias, None where it is no vector of the file, and the output of the layer with it."""
    tensors, output = network.initializers, node.output[0]
    if node.op_type != "MatMul":
        name = node.input[2] if len(node.input) > 2 else ""
        return _vector(tensors, node.name, 2, name, channels), output
    add = readers.get(output)
    if add is None or add.op_type != "Add" or output in activations:
        return Bias(node.name, 2, None, channels), output
    place = 1 - list(add.input).index(output)
    if add.input[place] not in tensors:
        return Bias(node.name, 2, None, channels), output
    return _vector(tensors, add.name, place, add.input[place], channels), add.output[0]


def _vector(tensors: Mapping[str, onnx.TensorProto], node: str, place: int, name: str, channels: int) -> Bias | None:
    if not name:
        return Bias(node, place, None, channels)
    tensor = tensors.get(name)
    if tensor is None or tensor.data_type != onnx.TensorProto.FLOAT or list(tensor.dims) != [channels]:
        return None
    return Bias(node, place, name, channels)


def _is_plain(node: onnx.NodeProto, rank: int) -> bool:
    """Whether an integer kernel computes this node's operator with these attributes."""
    given = attributes(node)
    match node.op_type:
        case "Gemm":
            return given.get("alpha", 1) == given.get("beta", 1) == 1 and not given.get("transA", 0)
        case "MatMul":
            return rank == 2
    return node.op_type == "Conv"


def _is_from_zero(network: Network, clip: onnx.NodeProto) -> bool:
    """Whether a Clip begins at 0, as codes do whose zero point is 0; a range around 0 would not end at its bounds."""
    bound = network.initializers.get(clip.input[1]) if len(clip.input) > 1 else None
    return bound is not None and not onnx.numpy_helper.to_array(bound).any()


def _runs_on_integers(
    network: Network,
    node: onnx.NodeProto,
    output: str,
    readers: Mapping[str, onnx.NodeProto],
    activations: Mapping[str, UnsignedFormat],
) -> bool:
    if activations[node.input[0]].bits > 8:
        return False
    made = activations.get(output)
    reader = readers.get(output)
    if made is None and reader is not None and reader.op_type in ("Relu", "Clip"):
        made = activations.get(reader.output[0])
        if made is None or made.bits > 8:
            return False
        # A 4-bit tensor is capped behind its quantization, which therefore does not make a Clip before it redundant.
        return reader.op_type == "Relu" or (made.bits == 8 and _is_from_zero(network, reader))
    if made is None:
        return node.op_type != "Conv"
    return made.bits <= 8
