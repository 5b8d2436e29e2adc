"""Bias correction: the mean error of a layer's outputs goes into its bias.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", arXiv 1906.04721; Banner et al.,
arXiv 1810.05723. A rounded weight shifts the mean of its outputs, and so do the errors that come in from before. With
`x` the inputs that the layer gets in the quantized network and `x_float` those of the float network,

    b' = b + W mean(x_float) - W_q mean(x)

makes the mean output of every channel, over samples and positions, that of the float layer. Outputs are linear in the
inputs, so that their means follow from those of the inputs, exactly and without running the layer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from network.activations import names_read, sole_readers
from network.graph import Layer, Network
from quantization.activations.quantized import QuantizedActivation
from quantization.errors import QuantizationError
from quantization.plans.lockstep import Arrays, Floats, Lockstep, affordable
from quantization.plans.order import Use, stages
from quantization.rounding.reduction import ConvReduction, NotReducible, Reduction, reduction
from quantization.storage.weights import QuantizedWeight

_NO_ACTIVATIONS: Mapping[str, QuantizedActivation] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class LayerBias:
    """The vector `initializer` that a layer, and nothing else, adds to its outputs: `factor * (W x) + bias`, all times
    what a later operation makes of it. `end` is the value with the bias in it."""

    initializer: str
    factor: float
    end: str


def bias_correction(
    network: Network,
    weights: Mapping[str, QuantizedWeight],
    inputs: Arrays,
    activations: Mapping[str, QuantizedActivation] = _NO_ACTIVATIONS,
    *,
    threads: int,
    batch: int = 64,
    memory_bytes: int = 1 << 30,
    check: Callable[[float], None] = lambda _fraction: None,
) -> dict[str, Floats]:
    """New values of the biases behind `weights`, by initializer name, layer after layer in graph order.

    Later layers see the biases that earlier ones were given. One pass of the float and one of the quantized network.

    Args and Raises: as `quantization.plans.sequential.round_plan`.
    """
    kept = affordable(network, inputs, memory_bytes, threads)
    lockstep = Lockstep(network, {n: a[:kept] for n, a in inputs.items()}, activations, batch=batch, threads=threads)
    biases = Biases(network)
    replaced: dict[str, Floats] = {name: weight.dequantize() for name, weight in weights.items()}
    order = stages(network, weights)
    for done, stage in enumerate(order):
        for _ in lockstep.advance(stage.cut, replaced):
            check(done / len(order))
        for use in stage.uses:
            replaced.update(biases.corrected(use, lockstep, replaced[use.site.weight]))
    check(1.0)
    return {name: values for name, values in replaced.items() if name not in weights}


class Biases:
    """The biases of a network's layers."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._nodes = {node.name: node for node in network.proto.graph.node}
        self._readers = sole_readers(network)
        self._reads = Counter(spec.name for spec in network.outputs)
        for node in network.proto.graph.node:
            self._reads.update(names_read(node))

    def of(self, layer: Layer) -> LayerBias | None:
        """The bias of `layer`; None where it has none, or one that others read or that is no vector of its channels."""
        node = self._nodes[layer.name]
        factor, end, name = 1.0, node.output[0], node.input[2] if len(node.input) > 2 else ""
        match node.op_type:
            case "Conv" | "ConvTranspose":
                pass
            case "Gemm":
                attributes = {a.name: a.f for a in node.attribute}
                if not attributes.get("beta", 1.0):
                    return None
                factor = attributes.get("alpha", 1.0) / attributes.get("beta", 1.0)
            case "MatMul" if node.input[1] == layer.weight:
                add = self._readers.get(end)
                if add is None or add.op_type != "Add":
                    return None
                name, end = add.input[1 - list(add.input).index(end)], add.output[0]
            case _:
                return None
        return LayerBias(name, factor, end) if self._is_own_vector(name, layer) else None

    def is_rectified(self, layer: Layer) -> bool:
        """Whether the layer's outputs, with its bias if it has one, go into a Relu and nowhere else."""
        node, bias = self._nodes[layer.name], self.of(layer)
        if bias is None and len([name for name in node.input if name]) > 2:
            return False
        reader = self._readers.get(node.output[0] if bias is None else bias.end)
        return reader is not None and reader.op_type == "Relu" and (bias is None or bias.factor > 0)

    def before_and_after(self, layer: Layer, corrected: Mapping[str, Floats]) -> tuple[Floats, Floats]:
        """What is added to `W x` in the float network and with the `corrected` biases: `[channels]`, or one 0 where
        the layer has no bias."""
        bias = self.of(layer)
        if bias is None:
            return np.zeros(1, dtype=np.float32), np.zeros(1, dtype=np.float32)
        old = self._network.weight(bias.initializer)
        new = corrected.get(bias.initializer, old)
        return old.reshape(-1) / np.float32(bias.factor), new.reshape(-1) / np.float32(bias.factor)

    def corrected(self, use: Use, lockstep: Lockstep, quantized: Floats) -> dict[str, Floats]:
        """The new bias of one use by initializer name, from the inputs that both networks give it where they stand.

        Args:
            quantized: the values that the weight has in the quantized network.
        """
        bias = self.of(use.layer)
        found = reduction(self._nodes[use.layer.name], use.site.weight, use.site.shape)
        if bias is None or isinstance(found, NotReducible):
            return {}
        weight = found.to_matrix(self._network.weight(use.site.weight)).astype(np.float64)
        rounded = found.to_matrix(quantized).astype(np.float64)
        mean, float_mean = _mean_columns(found, lockstep.pairs(use.tensor))
        error = np.einsum("grk,gk->gr", rounded, mean) - np.einsum("grk,gk->gr", weight, float_mean)
        old = self._network.weight(bias.initializer)
        return {bias.initializer: (old - bias.factor * error.reshape(old.shape)).astype(np.float32)}

    def _is_own_vector(self, name: str, layer: Layer) -> bool:
        tensor = self._network.initializers.get(name)
        if tensor is None or tensor.data_type != onnx.TensorProto.FLOAT or self._reads[name] != 1 or not tensor.dims:
            return False
        channels = self._network.initializers[layer.weight].dims[layer.channel_axis]
        if layer.op_type == "ConvTranspose":
            channels *= next((a.i for a in self._nodes[layer.name].attribute if a.name == "group"), 1)
        return bool(tensor.dims[-1] == channels == np.prod(tensor.dims))


def _mean_columns(
    found: Reduction, pairs: Iterable[tuple[Floats, Floats]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The means over all positions of the columns `[groups, reduced]`, of the quantized and of the float network."""
    totals: list[NDArray[np.float64] | float] = [0.0, 0.0]
    positions = 0
    for pair in pairs:
        for place, values in enumerate(pair):
            batch = torch.as_tensor(values)
            if isinstance(found, ConvReduction):  # windows of a sum are sums of windows
                batch = batch.sum(dim=0, keepdim=True).double()
            grid = found.grid(batch.shape)
            columns = found.columns(batch, [0] * len(grid), [1] * len(grid))
            totals[place] = totals[place] + columns.sum(dim=2, dtype=torch.float64).numpy()
        positions += columns.shape[2] * (len(values) if isinstance(found, ConvReduction) else 1)
    mean, float_mean = (np.asarray(total) / positions for total in totals)
    return mean, float_mean


def with_biases(network: Network, biases: Mapping[str, Floats]) -> Network:
    """`network` with new values of some float32 initializers, by name: what `quantization.export.export` takes, whose
    file then has the same size, and integer biases made from these values.

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
