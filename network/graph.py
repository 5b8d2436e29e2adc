"""The normalised network: an ONNX graph with its weights, layers and sites named.

A `Network` is what `network.normalise` makes: constant-folded, BatchNorm folded, one opset, every node named,
initializers out of the inputs, nodes in topological order. What the uploaded file leaves free of its inputs' axes is
free; whoever needs lengths takes those of the samples (`Network.sample_shapes`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from network.batching import Batching
from network.onnx_graph import names_read, opset_of
from network.shapes import Observed, SampleShapes, float_shapes, inferred_values
from network.tensor_spec import TensorSpec
from network.weight_folder import WeightFolder

ChannelAxis = int | tuple[int, ...]
"""The axis of a weight's output channels. Of a stack of matrices all axes but the one that is summed over: every matrix
has channels of its own."""

_LOST_AT_MOST = 2.0**-20


@dataclass(frozen=True, slots=True)
class Layer:
    """A node with a weight that may be quantized; `name` is the node's. A recurrent node has two, and is two layers.

    `weight` names the initializer, `channel_axis` its axis of output channels (of rows for an embedding),
    `macs` counts multiply-accumulates of one sample, `group` is the group count of a convolution. Where shapes are not
    known (`macs_known`), `macs` is the least: that of a single position, at which each weight is used once; of a layer
    in a body whose runs nobody counted, that of one run. A weight
    that is `stacked` holds matrices along its last two axes, and each of them has channels of its own.

    `view` names what the node reads, where that is not the initializer itself but its axes in the order `order`
    (a head that multiplies with the transposed embedding). A layer of an `inner` graph (a body of If, Loop or Scan)
    has inputs that nobody sees from outside. What reads `is_table` multiplies nothing with its weight: it adds, scales
    or moves it; `macs` are those of products with parts that are moved there.
    """

    name: str
    op_type: str
    weight: str
    channel_axis: int
    macs: int
    group: int = 1
    stacked: bool = False
    view: str = ""
    order: tuple[int, ...] = ()
    inner: bool = False
    macs_known: bool = True
    is_table: bool = False

    @property
    def read_as(self) -> str:
        """The name by which the node reads its weight."""
        return self.view or self.weight


@dataclass(frozen=True, slots=True)
class Site:
    """The unit of decision: one weight, used by one layer or by several (tied weights)."""

    name: str
    weight: str
    layers: tuple[Layer, ...]
    shape: tuple[int, ...]
    channel_axis: ChannelAxis

    @property
    def size(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one sample, over all uses."""
        return sum(layer.macs for layer in self.layers)

    @property
    def outer_layers(self) -> tuple[Layer, ...]:
        """Those of the main graph that compute with the weight, and do not read it as a table."""
        return tuple(layer for layer in self.layers if not layer.inner and not layer.is_table)

    @property
    def is_inner(self) -> bool:
        """Whether all its layers lie in bodies of If, Loop and Scan."""
        return all(layer.inner for layer in self.layers)

    @property
    def is_table(self) -> bool:
        """Whether no layer multiplies with the weight."""
        return all(layer.is_table for layer in self.layers)

    @property
    def macs_known(self) -> bool:
        """Whether `macs` is what one sample takes, and not just the least."""
        return all(layer.macs_known for layer in self.layers)

    @property
    def aliases(self) -> frozenset[str]:
        """Every name by which a request may call this site."""
        return frozenset({self.name, self.weight, *(layer.name for layer in self.layers)})


@dataclass(frozen=True)
class Network:
    """A normalised ONNX network. Never changed in place: `proto` is read-only by convention.

    `sample_shapes` are those of the data by graph input, without the batch axis; empty where `proto` fixes them all.
    `batching` says how samples become calls; `observed` is what one call showed, of one sample or of the batch that
    `proto` fixes. `of_halves`: weights of the uploaded file have 16 bits, which are float32 here.
    """

    proto: onnx.ModelProto
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    sites: tuple[Site, ...]
    sample_shapes: SampleShapes = field(default_factory=dict)
    batching: Batching = field(default_factory=Batching)
    observed: Observed = field(default_factory=dict)
    of_halves: bool = False

    @cached_property
    def initializers(self) -> dict[str, onnx.TensorProto]:
        return {tensor.name: tensor for tensor in self.proto.graph.initializer}

    @cached_property
    def sites_by_name(self) -> dict[str, list[Site]]:
        """Every name by which a request may call a weight, with the sites it may mean: one, if it is the site's own."""
        known: dict[str, list[Site]] = {}
        for site in self.sites:
            for alias in site.aliases:
                known.setdefault(alias, []).append(site)
        return known | {site.name: [site] for site in self.sites}

    @cached_property
    def weight_folder(self) -> WeightFolder:
        """Where ONNX Runtime finds the large initializers, for all sessions of parts of this network."""
        return WeightFolder()

    def weight(self, name: str) -> NDArray[np.float32]:
        """The values of the initializer `name`, in its ONNX shape."""
        return np.asarray(numpy_helper.to_array(self.initializers[name]))

    @cached_property
    def narrow(self) -> frozenset[str]:
        """The float32 initializers that float16 holds as well: of a network of 16 bits those that are as they came."""
        if not self.of_halves:
            return frozenset()
        floats = (name for name, tensor in self.initializers.items() if tensor.data_type == onnx.TensorProto.FLOAT)
        return frozenset(name for name in floats if _is_narrow(self.weight(name)))

    def layers(self) -> Iterator[Layer]:
        """All layers of the main graph but what reads tables, in graph order of their sites."""
        for site in self.sites:
            yield from site.outer_layers

    @cached_property
    def nodes(self) -> dict[str, onnx.NodeProto]:
        """The nodes of the main graph by name, in its order."""
        return {node.name: node for node in self.proto.graph.node}

    @cached_property
    def makers(self) -> dict[str, onnx.NodeProto]:
        """The node of the main graph that makes a value, by its name."""
        return {name: node for node in self.proto.graph.node for name in node.output if name}

    @cached_property
    def readers(self) -> dict[str, list[onnx.NodeProto]]:
        """The nodes of the main graph that read a value, by its name, each as often as it or its inner graphs do."""
        readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.proto.graph.node:
            for name in names_read(node):
                readers.setdefault(name, []).append(node)
        return readers

    @property
    def static_batch(self) -> int | None:
        """The number of samples of every call, None where it is free."""
        return self.batching.size

    @cached_property
    def float_shapes(self) -> tuple[dict[str, tuple[int, ...]], set[str]]:
        """The known shapes of float32 values for one sample, and the names of all of them."""
        observed = inferred_values(self.proto, 1, self.sample_shapes, self.batching, self.observed)
        return float_shapes(self.proto, observed)

    @property
    def opset(self) -> int:
        """Version of the standard operator set."""
        return opset_of(self.proto)


def _is_narrow(values: NDArray[np.float32]) -> bool:
    """Whether float16 loses no more of `values` than a thousandth of what a number of 16 bits is rounded by."""
    with np.errstate(over="ignore", invalid="ignore"):
        halves = values.astype(np.float16).astype(np.float32)
        lost = np.where(np.isfinite(values), values - halves, np.where(np.isinf(halves), 0, np.inf))
    return bool(np.linalg.norm(lost) <= _LOST_AT_MOST * np.linalg.norm(values[np.isfinite(values)]))
