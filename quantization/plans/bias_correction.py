"""Bias correction: the mean error of a layer's outputs goes into its bias.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", arXiv 1906.04721; Banner et al.,
arXiv 1810.05723. A rounded weight shifts the mean of its outputs, and so do the errors that come in from before. With
`x` the inputs that the layer gets in the quantized network and `x_float` those of the float network,

    b' = b + W mean(x_float) - W_q mean(x)

makes the mean output of every channel, over samples and positions, that of the float layer. Outputs are linear in the
inputs, so that their means follow from those of the inputs, exactly and without running the layer.

The file keeps the bias of an integer kernel in steps of input scale x weight scale, and at 4 bits these can be larger
than the mean error: the correction would then be lost or overshoot (`BiasSteps`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from network.activations import sole_readers
from network.graph import Layer, Network
from network.onnx_graph import attributes
from quantization.activations.biases import kernel_codes, kernel_scale
from quantization.activations.kernels import kernel_uses, with_kernels
from quantization.activations.quantized import QuantizedActivation
from quantization.errors import QuantizationError
from quantization.formats import Format
from quantization.plans.lockstep import Floats, Lockstep
from quantization.plans.order import Use
from quantization.rounding.convolution import ConvReduction
from quantization.rounding.layers import reduction_of
from quantization.rounding.reduction import NotReducible, Reduction
from quantization.storage.weights import IntegerWeight, QuantizedWeight

Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LayerBias:
    """The vector `initializer` that a layer, and nothing else, adds to its outputs: `factor * (W x) + bias`, all times
    what a later operation makes of it."""

    initializer: str
    factor: float


class BiasSteps:
    """In which steps the file keeps the biases of integer kernels: the scale of the layer's input x the weight's."""

    def __init__(
        self, network: Network, weights: Mapping[str, Format], activations: Mapping[str, QuantizedActivation]
    ) -> None:
        """`weights` are the formats of weights by initializer name, `activations` by tensor name."""
        widths = {name: activation.format for name, activation in activations.items()}
        along = {site.weight: site.channel_axis for site in network.sites}
        uses = kernel_uses(network, {name: along[name] for name in with_kernels(weights)}, widths)
        self._scales = {use.node: activations[use.input].scale for use in uses if use.integer}

    def has(self, layer: Layer) -> bool:
        """Whether an integer kernel computes `layer`."""
        return layer.name in self._scales

    def are_coarse(self, layer: Layer, weight: QuantizedWeight, error: Doubles) -> bool:
        """Whether the steps are larger than the mean errors `[channels]` that a correction would take away, in the root
        of the mean square: it would then add about as much as it takes."""
        if not (self.has(layer) and isinstance(weight, IntegerWeight)):
            return False
        steps = kernel_scale(self._scales[layer.name], weight).astype(np.float64)
        return bool(np.square(steps).mean() > np.square(error).mean())

    def kept(self, layer: Layer, weight: QuantizedWeight, bias: Floats) -> Floats:
        """What the file makes of `bias` `[channels]`."""
        if not (self.has(layer) and isinstance(weight, IntegerWeight)):
            return bias
        scale = self._scales[layer.name]
        return np.asarray(kernel_codes(bias, scale, weight) * kernel_scale(scale, weight), dtype=np.float32)


class Biases:
    """The biases of a network's layers."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._readers = sole_readers(network)

    def of(self, layer: Layer) -> LayerBias | None:
        """The bias of `layer`; None where it has none, or one that others read or that is no vector of its channels."""
        node = self._network.nodes[layer.name]
        factor, name = 1.0, node.input[2] if len(node.input) > 2 else ""
        match node.op_type:
            case "Conv" | "ConvTranspose":
                pass
            case "Gemm":
                given = attributes(node)
                if not given.get("beta", 1.0):
                    return None
                factor = given.get("alpha", 1.0) / given.get("beta", 1.0)
            case "MatMul" if node.input[1] == layer.read_as:
                add = self._readers.get(node.output[0])
                if add is None or add.op_type != "Add":
                    return None
                name = add.input[1 - list(add.input).index(node.output[0])]
            case _:
                return None
        return LayerBias(name, factor) if self._is_own_vector(name, layer) else None

    def mean_error(self, use: Use, lockstep: Lockstep, quantized: Floats) -> Doubles | None:
        """By how much the mean of each output of one use, `W x` `[channels]`, is off where the networks stand; None
        where that has no bias to go into.

        Args:
            quantized: the values that the weight has in the quantized network.
        """
        view = reduction_of(self._network, use.layer, use.site.shape)
        if self.of(use.layer) is None or isinstance(view, NotReducible):
            return None
        weight = view.to_matrix(self._network.weight(use.site.weight)).astype(np.float64)
        rounded = view.to_matrix(quantized).astype(np.float64)
        mean, float_mean = _mean_columns(view, lockstep.pairs(use.tensor))
        error = np.einsum("grk,gk->gr", rounded, mean) - np.einsum("grk,gk->gr", weight, float_mean)
        return np.asarray(error.ravel())

    def corrected(self, layer: Layer, error: Doubles) -> dict[str, Floats]:
        """The bias of `layer`, by initializer name, that takes the mean `error` `[channels]` away."""
        bias = self.of(layer)
        if bias is None:
            return {}
        old = self._network.weight(bias.initializer)
        return {bias.initializer: (old - bias.factor * error.reshape(old.shape)).astype(np.float32)}

    def _is_own_vector(self, name: str, layer: Layer) -> bool:
        tensor = self._network.initializers.get(name)
        if tensor is None or tensor.data_type != onnx.TensorProto.FLOAT or name not in self._readers or not tensor.dims:
            return False
        if layer.stacked:  # its matrices add the same vector, and are not off by the same
            return False
        channels = self._network.initializers[layer.weight].dims[layer.channel_axis]
        if layer.op_type == "ConvTranspose":
            channels *= layer.group
        return bool(tensor.dims[-1] == channels == np.prod(tensor.dims))


def _mean_columns(
    view: Reduction, pairs: Iterable[tuple[Floats, Floats]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The means over all positions of the columns `[groups, reduced]`, of the quantized and of the float network."""
    totals: list[NDArray[np.float64] | float] = [0.0, 0.0]
    positions = 0
    for pair in pairs:
        for place, values in enumerate(pair):
            batch = view.by_sample(torch.as_tensor(values))
            if isinstance(view, ConvReduction):  # windows of a sum are sums of windows
                batch = batch.sum(dim=0, keepdim=True).double()
            grid = view.grid(batch.shape)
            columns = view.columns(batch, [0] * len(grid), [1] * len(grid))
            totals[place] = totals[place] + columns.sum(dim=2, dtype=torch.float64).numpy()
        positions += columns.shape[2] * (len(values) if isinstance(view, ConvReduction) else 1)
    mean, float_mean = (np.asarray(total) / positions for total in totals)
    return mean, float_mean


def with_biases(network: Network, biases: Mapping[str, Floats]) -> Network:
    """`network` with new values of some float32 initializers, by name: what `quantization.export.export` takes, whose
    file then has the same size, and integer biases made from these values. All initializers are copied: messages of
    protobuf share nothing.

    Raises:
        QuantizationError: there is no such initializer, or one of another shape.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(network.proto)
    left = dict(biases)
    for tensor in proto.graph.initializer:
        values = left.get(tensor.name)
        if values is not None and tuple(tensor.dims) == values.shape and tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(left.pop(tensor.name).astype(np.float32), tensor.name))
    if left:
        raise QuantizationError(
            f"new biases {', '.join(left)} must replace float32 initializers of their shapes; the network has none such"
        )
    return replace(network, proto=proto)
