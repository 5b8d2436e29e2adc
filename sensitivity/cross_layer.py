"""The cross-layer matrix: damage of every plan, interactions included, from one forward pass for each candidate.

Second order, the damage of changing the outputs by dz is `1/2 ||B dz||^2` (see `sensitivity.loss`), and the changes
that several candidates cause add up to first order: `dz(plan) = sum_i dz_{i, f_i}`. So with one row
`Z_k = [B dz_k over all samples]` for each candidate k,

    G = Z Z' / (2 N),        damage(plan) = x' G x,

x the indicator of the chosen candidates: the diagonal holds each candidate's own damage, `2 G_kl` the interaction of
two (what CLADO, arXiv 2307.05657, measures with one pass for each *pair*). G is positive semidefinite by construction.

What it cannot see: interactions of higher order (saturation when much is quantized), and noise of the samples; the
standard errors speak of the latter.

The candidates of one site share everything before its weight's first use: that part runs once
(`network.segments`). Outputs beyond `sketch` numbers for each sample are compressed by a count sketch (Charikar et al.
2002; seeded, new for each micro-batch), which leaves every entry of G unbiased with a standard deviation of at most
`sqrt(2 / (sketch N)) * sqrt(G_kk G_ll)` for samples of equal size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from network.graph import Network, Site
from network.segments import SegmentedNetwork, Values
from sensitivity.loss import Loss, root_times, sample_loss

Checkpoint = Callable[[str, Callable[[], NDArray[np.float32]]], NDArray[np.float32]]

# float64 copies of the rows are made for so many samples at a time
SAMPLES_AT_ONCE = 64


@dataclass(frozen=True)
class CrossLayer:
    """The matrix and what its passes also measured, one row for each candidate, sites in order.

    `matrix` is G `[candidates, candidates]` in the loss's units (nats for kl); `damage_stderr` the standard error of
    its diagonal over samples; `measured` the mean loss with only this candidate quantized, not to second order but
    as it is, and `measured_stderr` its standard error.
    """

    matrix: NDArray[np.float64]
    damage_stderr: NDArray[np.float64]
    measured: NDArray[np.float64]
    measured_stderr: NDArray[np.float64]
    samples: int

    @property
    def damage(self) -> NDArray[np.float64]:
        """Each candidate's own damage, the diagonal of G."""
        return np.diagonal(self.matrix)


def cross_layer(
    network: Network,
    candidates: Mapping[str, Sequence[Callable[[], NDArray[np.float32]]]],
    inputs: Mapping[str, NDArray[np.generic]],
    loss: Loss,
    *,
    threads: int,
    generator: np.random.Generator,
    batch: int = 64,
    group: int = 1024,
    sketch: int = 256,
    checkpoint: Checkpoint = lambda _name, compute: compute(),
    check: Callable[[float], None] = lambda _fraction: None,
) -> CrossLayer:
    """The cross-layer matrix of the candidates of all sites.

    Args:
        network: the float network.
        candidates: site name to its candidates' weight values, each as a function (so that not all exist at once).
        inputs: arrays `[samples, ...]` by graph input name.
        loss: which loss; its reference are the network's own float outputs.
        threads: threads of ONNX Runtime.
        generator: source of the sketch; unused when outputs are small.
        batch: samples in one run.
        group: samples whose activations at one cut are kept at once; bounds the memory.
        sketch: most numbers kept for each sample's outputs.
        checkpoint: called with a name and a function for every (group, site); may return what it stored before.
        check: called after every candidate's run with the fraction done.
    """
    samples = len(next(iter(inputs.values())))
    seed = int(generator.integers(2**63))
    sites = [site for site in network.sites if candidates.get(site.name)]
    rows: dict[str, list[NDArray[np.float32]]] = {site.name: [] for site in sites}
    starts = list(range(0, samples, group))
    for index, start in enumerate(starts):
        chosen = {name: array[start : start + group] for name, array in inputs.items()}
        passes = _Passes(network, chosen, loss, threads, batch, sketch, (seed, index))
        ordered = sorted(sites, key=lambda site: passes.segments.first_use(site))
        for position, site in enumerate(ordered):
            done = (index + position / len(ordered)) / len(starts)
            step = 1 / (len(starts) * len(ordered))

            def compute(
                site: Site = site, done: float = done, step: float = step, passes: _Passes = passes
            ) -> NDArray[np.float32]:
                weights = candidates[site.name]
                parts = []
                for number, weight in enumerate(weights):
                    parts.append(passes.rows(site, weight()))
                    check(done + step * (number + 1) / len(weights))
                return np.stack(parts)

            rows[site.name].append(checkpoint(f"{site.name}/{index}", compute))
    # popped, so that the rows, which may be gigabytes, do not exist a second time while they are put together
    return _assemble([np.concatenate(rows.pop(site.name), axis=1) for site in sites], samples)


class _Passes:
    """The passes over one group of samples; sites must be asked for in the order of their first use."""

    def __init__(
        self,
        network: Network,
        inputs: Mapping[str, NDArray[np.generic]],
        loss: Loss,
        threads: int,
        batch: int,
        sketch: int,
        seed: tuple[int, int],
    ) -> None:
        self.segments = SegmentedNetwork(network, threads)
        self._loss = loss
        self._sketch = sketch
        self._seed = seed
        samples = len(next(iter(inputs.values())))
        self._live: list[Values] = [
            {name: array[start : start + batch] for name, array in inputs.items()} for start in range(0, samples, batch)
        ]
        self._cut = 0
        self._output = network.outputs[0].name
        whole = self.segments.between(0, len(network.proto.graph.node))
        self._float_outputs = [_floats(whole.run(values)[self._output]) for values in self._live]
        self._site: Site | None = None

    def rows(self, site: Site, weight: NDArray[np.float32]) -> NDArray[np.float32]:
        """For each sample one row `[samples, sketched outputs + 1]`: `B dz`, and last the loss itself."""
        if self._site is not site:
            cut = self.segments.first_use(site)
            if cut > self._cut:
                segment = self.segments.between(self._cut, cut)
                self._live = [segment.run(values) for values in self._live]
                self._cut = cut
            self._rest = self.segments.after(cut, site.weight)
            self._site = site
        parts = []
        for index, (values, float_outputs) in enumerate(zip(self._live, self._float_outputs, strict=True)):
            outputs = _floats(self._rest.run({**values, site.weight: weight})[self._output])
            root = root_times(self._loss, outputs, float_outputs)
            lost = sample_loss(self._loss, outputs, float_outputs)
            parts.append(np.column_stack([self._compress(root, index), lost]).astype(np.float32))
        return np.concatenate(parts)

    def _compress(self, root: NDArray[np.float64], batch_index: int) -> NDArray[np.float64]:
        """A count sketch of the columns; the same for every candidate, so that inner products survive."""
        width = root.shape[1]
        if width <= self._sketch:
            return root
        generator = np.random.default_rng([*self._seed, batch_index])
        signs = generator.choice([-1.0, 1.0], size=width)
        buckets = generator.integers(self._sketch, size=width)
        projection = csr_array((signs, (np.arange(width), buckets)), shape=(width, self._sketch))
        return np.asarray(root @ projection)


def _assemble(rows: Sequence[NDArray[np.float32]], samples: int) -> CrossLayer:
    """G from the rows `[candidates, samples, outputs + 1]` of every site."""
    counts = [len(part) for part in rows]
    matrix = np.zeros((sum(counts), sum(counts)))
    own = np.zeros((sum(counts), samples))
    lost = np.zeros((sum(counts), samples))
    for start in range(0, samples, SAMPLES_AT_ONCE):
        block = slice(start, start + SAMPLES_AT_ONCE)
        stacked = np.concatenate([part[:, block] for part in rows]).astype(np.float64)
        root = stacked[:, :, :-1]
        own[:, block] = 0.5 * np.square(root).sum(2)
        lost[:, block] = stacked[:, :, -1]
        flat = root.reshape(len(root), -1)
        matrix += flat @ flat.T
    return CrossLayer(
        matrix=matrix / (2 * samples),
        damage_stderr=_stderr(own),
        measured=lost.mean(1),
        measured_stderr=_stderr(lost),
        samples=samples,
    )


def _stderr(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard error of the mean over the last axis."""
    return np.asarray(values.std(1, ddof=1) / np.sqrt(values.shape[1]))


def _floats(outputs: NDArray[np.generic]) -> NDArray[np.float32]:
    return np.asarray(outputs, dtype=np.float32)
