"""How much memory a network takes at least, from its inferred shapes: nothing is run.

Rules, because shapes are often only partly known:

1. The first axis of every graph input is the batch, unless the graph fixes it.
2. A further unknown axis of an input is `ASSUMED_LENGTH`, unless `sample_shapes` gives it. It is on the small side
   on purpose: the check before the data is known must not refuse a network that fits the data.
3. Shapes that the file itself states for inner values and outputs are ignored: a file can lie about them.
4. A value whose shape stays unknown (it depends on values, not shapes) counts as the largest value that is known.
   This is no upper bound; the memory limit of the process that runs the network is the last line of defence.

Not counted: the workspaces of the runtime's kernels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto

from network.batching import Batching
from network.graph import Network
from network.onnx_graph import graphs, names_read, own_inputs, shape_of, shape_skeleton, subgraphs
from network.products import least_macs
from network.shapes import NOTHING, fix_axes, inferred_values

ASSUMED_LENGTH = 64

# Bits of types whose elements have no fixed length, and of 6-bit floats, which runtimes keep as bytes.
_BITS: Mapping[int, int] = {TensorProto.STRING: 256, TensorProto.FLOAT6E2M3: 8, TensorProto.FLOAT6E3M2: 8}


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes of the weights, and of the activations that are alive at once in the worst moment.

    `largest` names the biggest activation, `largest_bytes` is its size; `unknown` counts the values of unknown shape;
    `macs` is how often the network multiplies and adds at least (`network.products`).
    """

    weight_bytes: int
    activation_bytes: int
    largest: str
    largest_bytes: int
    unknown: int
    macs: int

    @property
    def total_bytes(self) -> int:
        return self.weight_bytes + self.activation_bytes


def estimate_memory(
    model: ModelProto,
    batch: int,
    sample_shapes: Mapping[str, Sequence[int]] | None = None,
    batching: Batching | None = None,
) -> MemoryEstimate:
    """Weights plus the peak of live activations over the graph's own order, for `batch` samples at once.

    Args:
        model: a checked model without model-local functions. It is not changed.
        batch: samples per run, at least 1.
        sample_shapes: shape of one sample (without the batch axis) by graph input name.
        batching: which axis that is; None: the first of every input.

    Raises:
        ValueError: `batch` is not positive.
        onnx.shape_inference.InferenceError: the graph is too broken for inference.
    """
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    skeleton = shape_skeleton(model)
    inputs = [value.name for value in own_inputs(model.graph)]
    for value in skeleton.graph.input[: len(inputs)]:
        axis = batching.input_axis(value.name) if batching else 0
        _fix_input(value, axis, batch, (sample_shapes or {}).get(value.name))
    return _estimate(model, onnx.shape_inference.infer_shapes(skeleton, data_prop=True).graph)


def normalised_memory(network: Network, batch: int) -> MemoryEstimate:
    """As `estimate_memory`, of a normalised network in a call of so many samples.

    Shapes that the network computes from free axes are known too, and of a call like the one that was observed all.
    """
    observed = network.observed if batch == (network.static_batch or 1) else NOTHING
    if not network.sample_shapes and not observed:
        return estimate_memory(network.proto, batch, batching=network.batching)
    values = inferred_values(network.proto, batch, network.sample_shapes, network.batching, observed)
    return _estimate(network.proto, values)


def _estimate(model: ModelProto, inferred: GraphProto) -> MemoryEstimate:
    inputs = [value.name for value in own_inputs(model.graph)]
    sizes = _Sizes(inferred, inputs)
    weights = sum(_bytes(t.dims, t.data_type) for graph in graphs(model.graph) for t in graph.initializer)
    # a sparse initializer counts at its dense size: runtimes expand it
    weights += sum(_bytes(s.dims, s.values.data_type) for g in graphs(model.graph) for s in g.sparse_initializer)
    return MemoryEstimate(
        weights,
        _peak(model.graph, inputs, sizes),
        sizes.largest,
        sizes.largest_bytes,
        len(sizes.unknown),
        least_macs(model.graph, inferred),
    )


def _fix_input(value: ValueInfoProto, axis: int | None, batch: int, sample_shape: Sequence[int] | None) -> None:
    """Put numbers on the unknown axes of a graph input, by rules 1 and 2; `axis` is that of the batch."""
    fix_axes(value, axis, batch, sample_shape)
    for dim in value.type.tensor_type.shape.dim:
        if not dim.HasField("dim_value"):
            dim.dim_value = ASSUMED_LENGTH


def _element_bits(data_type: int) -> int:
    """Bits of one element; a type we do not know counts as 32."""
    try:
        return _BITS.get(data_type) or int(ir.DataType(data_type).bitwidth)
    except (TypeError, ValueError):
        return 32


def _bytes(shape: Iterable[int], data_type: int) -> int:
    return -(-math.prod(map(int, shape)) * _element_bits(data_type) // 8)


def _value_bytes(value: ValueInfoProto) -> tuple[int, bool]:
    """Bytes from the known axes, and whether all axes are known."""
    shape = shape_of(value)
    if shape is None:
        return 0, False
    known = [length for length in shape if length is not None]
    return _bytes(known, value.type.tensor_type.elem_type), len(known) == len(shape)


class _Sizes:
    """Bytes of every value, of the graph and of the graphs nested in it; rule 4 for the unknown ones."""

    def __init__(self, graph: GraphProto, inputs: Sequence[str]) -> None:
        known: dict[str, int] = {}
        partial: dict[str, int] = {}
        for inner in graphs(graph):
            for value in (*inner.input, *inner.value_info, *inner.output):
                size, complete = _value_bytes(value)
                sizes = known if complete else partial
                # Two branches may use one name for different values.
                sizes[value.name] = max(size, sizes.get(value.name, 0))
        produced = {name for inner in graphs(graph) for node in inner.node for name in node.output if name}
        activations = sorted(name for name in {*produced, *inputs} if name in known)
        self.largest = max(activations, key=lambda name: known[name], default="")
        self.largest_bytes = known.get(self.largest, 0)
        self.unknown = produced - known.keys()
        self._bytes: dict[str, int] = known | {
            name: max(self.largest_bytes, partial.get(name, 0)) for name in self.unknown
        }

    def __getitem__(self, name: str) -> int:
        return self._bytes.get(name, 0)


def _peak(graph: GraphProto, inputs: Sequence[str], sizes: _Sizes) -> int:
    """Most bytes alive at once, when every value goes after its last use; inputs and outputs stay to the end."""
    last_use = {name: len(graph.node) for name in (*inputs, *(value.name for value in graph.output))}
    for index, node in enumerate(graph.node):
        for name in names_read(node):
            last_use[name] = max(last_use.get(name, 0), index)
    dying: dict[int, list[str]] = {}
    live = peak = sum(sizes[name] for name in inputs)
    for index, node in enumerate(graph.node):
        made = sum(sizes[name] for name in node.output if name)
        inner = max((_peak(g, [v.name for v in g.input], sizes) for g in subgraphs(node)), default=0)
        peak = max(peak, live + made + inner)
        live += made
        for name in node.output:
            if name:
                dying.setdefault(max(last_use.get(name, index), index), []).append(name)
        live -= sum(sizes[name] for name in dying.pop(index, ()))
    return peak
