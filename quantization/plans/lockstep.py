"""A network and its quantized self, run side by side from cut to cut.

Whoever rounds a layer for the inputs that it will really get needs, at the same moment, what the float network gives
that layer and what the network gives whose earlier weights are rounded already. Running both from the start for every
layer would cost as many passes as there are layers. Here both stand at the same cut (`network.segments`), every batch
of samples with its live values, and move on to the next cut together: each node runs once in either network.

Values that are to be quantized are rounded when they come into being, in the quantized network only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from network.activations import moved_from
from network.graph import Network
from network.segments import SegmentedNetwork, Values
from network.taps import Taps
from quantization.activations.quantized import QuantizedActivation

Arrays = Mapping[str, NDArray[np.generic]]
Floats = NDArray[np.float32]


class Lockstep:
    """Both networks at cut 0; `advance` moves them.

    Args:
        network: the float network; its nodes are in topological order.
        inputs: arrays `[samples, ...]` by graph input name.
        activations: by tensor name, as `quantization.export.export.export` takes them.
        batch: samples in one run; where the graph fixes their number, that.
        threads: threads of ONNX Runtime.

    Raises:
        ValueError: an activation is no value of the main graph, or the samples come in other batches than those that
            the graph takes.
    """

    def __init__(
        self,
        network: Network,
        inputs: Arrays,
        activations: Mapping[str, QuantizedActivation],
        *,
        batch: int,
        threads: int,
    ) -> None:
        self._segments = SegmentedNetwork(network, threads)
        self._moments = _moments(network, activations)
        self._activations = activations
        samples = len(next(iter(inputs.values())))
        fixed = _fixed_batch(network, samples)
        if fixed is not None and min(batch, samples) != fixed:
            raise ValueError(f"the graph takes exactly {fixed} samples in a run; got batches of {batch}, give {fixed}")
        self._float: list[Values] = [network.batching.call(part) for part in network.batching.batches(inputs, batch)]
        self._quantized: list[Values] = [self._with_quantized(values, 0) for values in self._float]
        self.cut = 0

    @property
    def batches(self) -> int:
        """How many batches the samples make."""
        return len(self._float)

    def pairs(self, tensor: str) -> Iterator[tuple[Floats, Floats]]:
        """For every batch the value of `tensor` in the quantized and in the float network.

        Raises:
            KeyError: it is not alive at this cut.
        """
        for quantized, exact in zip(self._quantized, self._float, strict=True):
            yield np.asarray(quantized[tensor], dtype=np.float32), np.asarray(exact[tensor], dtype=np.float32)

    def advance(self, cut: int, replaced: Mapping[str, Floats]) -> Iterator[int]:
        """Move both networks to `cut`, in the quantized one with `replaced` initializers; yields after every batch.

        Only when the iterator has ended do they stand there.
        """
        cuts = sorted({self.cut, cut, *(c for c in self._moments if self.cut < c < cut)})
        exact = self._segments.between(self.cut, cut)
        parts = [(stop, self._segments.between(start, stop, replaced=replaced)) for start, stop in pairwise(cuts)]
        for index in range(len(self._float)):
            self._float[index] = exact.run(self._float[index])
            for stop, segment in parts:
                self._quantized[index] = self._with_quantized(segment.run(self._quantized[index]), stop)
            yield index
        self.cut = cut

    def _with_quantized(self, values: Values, cut: int) -> Values:
        """`values` with those that come into being at `cut` quantized."""
        names = [name for name in self._moments.get(cut, ()) if name in values]  # others are not read from here on
        return {**values, **{n: self._activations[n].apply(np.asarray(values[n], dtype=np.float32)) for n in names}}


def affordable(network: Network, inputs: Arrays, memory_bytes: int, threads: int) -> int:
    """How many of the samples, at least one, both networks can keep alive between two cuts in so much memory.

    Whole batches where the graph fixes their size. Measured: one sample, or one such batch, runs through the float
    network, with all values of all cuts in memory.

    Raises:
        ValueError: there are no samples, or no whole number of the graph's batches.
    """
    samples = len(next(iter(inputs.values()), ()))
    if samples < 1:
        raise ValueError("there are no samples to round for; expected at least one")
    batch = _fixed_batch(network, samples) or 1
    fitting = memory_bytes // max(1, math.ceil(2 * _live_bytes(network, inputs, threads, batch)))
    return min(samples, max(batch, fitting // batch * batch))


def _fixed_batch(network: Network, samples: int) -> int | None:
    """How many samples the graph takes in a run, None where any number.

    Raises:
        ValueError: `samples` do not divide into such batches.
    """
    fixed = network.static_batch
    if fixed is not None and (fixed < 1 or samples % fixed):
        raise ValueError(f"the graph takes exactly {fixed} samples in a run; got {samples}, give a multiple of {fixed}")
    return fixed


def _live_bytes(network: Network, inputs: Arrays, threads: int, run: int) -> float:
    """Bytes of the values that one sample, of `run` in a run, keeps alive at the widest cut before a layer, in one
    network."""
    segments = SegmentedNetwork(network, threads)
    layers = {layer.name for layer in network.layers()}
    live = [segments.live_values(cut) for cut, node in enumerate(network.proto.graph.node) if node.name in layers]
    names = sorted(set[str]().union(*live))
    sizes: dict[str, int] = {}

    def visit(name: str, values: NDArray[np.generic]) -> None:
        sizes[name] = np.asarray(values).nbytes

    if names:
        Taps(network, names, threads).run(network.batching.batches(inputs, run)[0], visit)
    return max((sum(sizes[name] for name in alive) / run for alive in live), default=0)


def _moments(network: Network, activations: Mapping[str, QuantizedActivation]) -> dict[int, tuple[str, ...]]:
    """By cut the values to round there. One that only moves values which are rounded already is not among them."""
    born = {spec.name: 0 for spec in network.inputs}
    born.update((name, place + 1) for place, node in enumerate(network.proto.graph.node) for name in node.output)
    if unknown := [name for name in activations if name not in born]:
        raise ValueError(f"activations {', '.join(unknown)} are no values of the network's main graph")
    moved = moved_from(network)
    moments: dict[int, tuple[str, ...]] = {}
    for name in activations:
        if moved.get(name) not in activations:
            moments[born[name]] = (*moments.get(born[name], ()), name)
    return moments
