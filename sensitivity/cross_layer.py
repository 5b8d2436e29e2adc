"""The cross-layer matrix: damage of every plan, interactions included, from one forward pass for each candidate.

Second order, the damage of changing the outputs by dz is `1/2 ||B dz||^2` (see `sensitivity.loss`), and the changes
that several candidates cause add up to first order: `dz(plan) = sum_i dz_{i, f_i}`. So with one row
`Z_k = [B dz_k over all samples]` for each candidate k,

    G = Z Z' / (2 N),        damage(plan) = x' G x,

x the indicator of the chosen candidates: the diagonal holds each candidate's own damage, `2 G_kl` the interaction of
two (what CLADO, arXiv 2307.05657, measures with one pass for each *pair*). G is positive semidefinite by construction.
Weights and activations are candidates alike: both change the outputs. Nothing is differentiated, so every graph that
ONNX Runtime runs has its matrix.

What it cannot see: interactions of higher order (saturation when much is quantized), and noise of the samples; the
standard errors speak of the latter.

The candidates of one site share everything before its weight's first use, or up to its activation: that part runs once
(`network.segments`). Outputs beyond `sketch` numbers for each sample are compressed by a count sketch (Charikar et al.
2002) with m = `sketch` buckets, seeded, the same for every candidate, with signs of its own for every sample. It leaves
every entry of G unbiased. With g_ks the share of sample s in the damage of candidate k (so that `G_kk = sum_s g_ks`),
the errors of different samples are uncorrelated and that of one has a variance of at most `2/m g_ks g_ls`, so that

    sd(G_kl) <= sqrt(2/m sum_s g_ks g_ls),

which is `sqrt(2 / (m N)) sqrt(G_kk G_ll)` for samples of equal size. `CrossLayer.sketch_stderr` is this bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from network.graph import Network
from network.runtime import SideBySide
from network.segments import Segment, SegmentedNetwork, Values
from sensitivity.estimate import ActivationChange, Change, WeightChange
from sensitivity.loss import Loss
from sensitivity.parts import Part, Spread, in_order, worth

Rows = NDArray[np.float32]

# parts of a job of even length, about: some for each of several processes
PARTS = 40

# float64 copies of the rows are made for so many samples at a time
SAMPLES_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class CrossLayer:
    """The matrix and what its passes also measured, one row for each candidate, in the order of the changes.

    `matrix` is G `[candidates, candidates]` in the loss's units (nats for kl); `sketch_stderr`, of the same shape, the
    largest standard deviation that the sketch can give its entries, 0 when nothing was sketched; `damage_stderr` the
    standard error of the diagonal over samples; `measured` the mean loss with only this candidate quantized, not to
    second order but as it is, and `measured_stderr` its standard error.
    """

    matrix: NDArray[np.float64]
    sketch_stderr: NDArray[np.float64]
    damage_stderr: NDArray[np.float64]
    measured: NDArray[np.float64]
    measured_stderr: NDArray[np.float64]
    samples: int

    @property
    def damage(self) -> NDArray[np.float64]:
        """Each candidate's own damage, the diagonal of G."""
        return np.diagonal(self.matrix)

    @property
    def sketch_error(self) -> float:
        """The largest `sketch_stderr` relative to `sqrt(G_kk G_ll)`, which no entry exceeds; 0 without a sketch."""
        root = np.sqrt(self.damage)
        largest = np.outer(root, root)
        known = np.isfinite(largest) & (largest > 0)
        return float(np.divide(self.sketch_stderr, largest, out=np.zeros_like(largest), where=known).max())


def cross_layer(
    network: Network,
    changes: Sequence[Change],
    inputs: Mapping[str, NDArray[np.generic]],
    loss: Loss,
    *,
    threads: int,
    generator: np.random.Generator,
    batch: int = 64,
    group: int = 1024,
    sketch: int = 256,
    spread: Spread = in_order,
    check: Callable[[float], None] = lambda _fraction: None,
) -> CrossLayer:
    """The cross-layer matrix of all candidates.

    Args:
        network: the float network.
        changes: the candidates, in any order; those of one site change the same weight or the same values.
        inputs: arrays `[samples, ...]` by graph input name.
        loss: which loss; its reference are the network's own float outputs.
        threads: cores to use.
        generator: source of the sketch; unused when outputs are small.
        batch: samples that run at once, shared out to the cores.
        group: samples whose activations at one cut are kept at once; bounds the memory.
        sketch: most numbers kept for each sample's outputs.
        spread: gives the rows of some candidates on some samples, in parts.
        check: called after every candidate's run with the fraction done.

    Raises:
        ValueError: there are no candidates; those of one site change different things; a name is unknown or unused; or
            a rounding returns another shape than it got.
    """
    samples = len(next(iter(inputs.values())))
    seed = int(generator.integers(2**63))
    cores = SideBySide.of(batch, threads, network.static_batch)
    segments = SegmentedNetwork(network, cores.threads, loss.outputs)
    targets = _targets(changes, segments)
    groups = [slice(start, min(start + group, samples)) for start in range(0, samples, group)]
    parts = [part for own in groups for part in _parts(network, targets, own)]
    before = np.cumsum([0, *(len(part.changes) for part in parts)])
    passes: dict[int, _Passes] = {}  # of the one group that is worked on

    def compute(place: int) -> Part:
        part = parts[place]
        if part.group.start not in passes:
            passes.clear()
            own = {name: array[part.group] for name, array in inputs.items()}
            batches = [call for turn in cores.calls(network.batching, own, batch) for call in turn]
            key = (seed, groups.index(part.group))
            passes[part.group.start] = _Passes(segments, batches, loss, sketch, key, cores)
        rows = []
        for number, change in enumerate(part.changes, start=1):
            rows.append(passes[part.group.start].rows(part.target, change))
            check((before[place] + number) / before[-1])
        return {"rows": np.stack(rows)}

    # the name says which samples went in, and in which batches: a sketch differs from one to the next
    names = [f"{part.name}/{batch}/{cores.runs}" for part in parts]
    rows: dict[str, list[list[Rows]]] = {target.site: [[] for _ in groups] for target in targets}
    for part, own, done in zip(parts, spread(names, compute), before[1:], strict=True):
        rows[part.target.site][groups.index(part.group)].append(np.asarray(own["rows"], dtype=np.float32))
        check(done / before[-1])
    passes.clear()
    # popped, so that the rows, which may be gigabytes, do not exist a second time while they are put together
    whole = [(target.positions, _of_groups(rows.pop(target.site))) for target in targets]
    return _assemble(whole, samples, sketch)


@dataclass(frozen=True, eq=False)
class _Target:
    """What the candidates of one site change: `weight`, or the values named in `cuts`.

    `positions` are the places of `changes` among all changes; `cuts` maps each cut, ascending, to the values that are
    replaced there.
    """

    site: str
    changes: tuple[Change, ...]
    positions: tuple[int, ...]
    weight: str | None
    cuts: Mapping[int, tuple[str, ...]]


@dataclass(frozen=True, eq=False)
class _Part:
    """Some candidates of one site, on one group of the samples."""

    target: _Target
    changes: tuple[Change, ...]
    first: int
    group: slice

    @property
    def name(self) -> str:
        return f"{self.target.site}/{self.first}+{len(self.changes)}/{self.group.start}-{self.group.stop}"


def _parts(network: Network, targets: Sequence[_Target], group: slice) -> list[_Part]:
    """The parts of one group, in the order of their cuts, of about as many nodes each; one candidate is never cut, and
    those of a site are not where they take no time."""
    nodes = len(network.proto.graph.node)
    behind = [nodes - min(target.cuts) + 1 for target in targets]
    total = sum(count * len(target.changes) for count, target in zip(behind, targets, strict=True))
    parts = []
    for count, target in zip(behind, targets, strict=True):
        runs = len(target.changes) * count / (nodes + 1)  # of the whole network
        most = max(1, math.ceil(worth(network, runs * (group.stop - group.start))))
        own = min(most, math.ceil(PARTS * count * len(target.changes) / total))
        size = math.ceil(len(target.changes) / own)
        parts += [
            _Part(target, target.changes[first : first + size], first, group)
            for first in range(0, len(target.changes), size)
        ]
    return parts


def _targets(changes: Sequence[Change], segments: SegmentedNetwork) -> list[_Target]:
    """The targets of all sites, in graph order of their first cut."""
    if not changes:
        raise ValueError("there is no candidate to measure; expected at least one change")
    positions: dict[str, list[int]] = {}
    for position, change in enumerate(changes):
        positions.setdefault(change.site, []).append(position)
    targets = []
    for site, places in positions.items():
        own = tuple(changes[place] for place in places)
        names = {frozenset(changed_names(change)) for change in own}
        if len(names) > 1:
            raise ValueError(
                f"the candidates of site {site!r} change {sorted(map(sorted, names))}; expected all to change the same "
                "weight or values: make two sites of what is decided apart"
            )
        first = own[0]
        cuts: dict[int, tuple[str, ...]] = {}
        if isinstance(first, WeightChange):
            cuts[segments.first_use(first.initializer)] = ()
        else:
            for name in sorted(first.tensors, key=segments.made_at):
                cut = segments.made_at(name)
                cuts[cut] = (*cuts.get(cut, ()), name)
        weight = first.initializer if isinstance(first, WeightChange) else None
        targets.append(_Target(site, own, tuple(places), weight, cuts))
    return sorted(targets, key=lambda target: min(target.cuts))


def changed_names(change: Change) -> tuple[str, ...]:
    """The initializer or the values that a candidate changes.

    Raises:
        ValueError: there is none.
    """
    if isinstance(change, WeightChange):
        return (change.initializer,)
    if not change.tensors:
        raise ValueError(f"candidate {change.format!r} of site {change.site!r} changes no value; expected at least one")
    return tuple(change.tensors)


@dataclass(eq=False)
class _Passes:
    """The passes over one group of samples, given in batches; a target of an earlier cut begins from the start."""

    segments: SegmentedNetwork
    batches: list[Values]
    loss: Loss
    sketch: int
    seed: tuple[int, int]
    cores: SideBySide

    def __post_init__(self) -> None:
        self._live = self.batches
        self._cut = 0
        self._target: _Target | None = None
        self._chain: list[tuple[tuple[str, ...], Segment]] = []

    @cached_property
    def _float_outputs(self) -> list[dict[str, NDArray[np.float32]]]:
        whole = self.segments.after(0)
        return self.cores.map(lambda values: _named_floats(whole.run(values)), self.batches)

    def rows(self, target: _Target, change: Change) -> Rows:
        """For each sample one row `[samples, outputs or sketch + 3]`.

        `B dz`, whether that is sketched (1 or 0), `1/2 ||B dz||^2` before it was sketched, and the loss itself.
        """
        float_outputs = self._float_outputs  # before there is a chain: two sessions at once take twice the weights
        if self._target is not target:
            self._advance(target)
        fixed = {change.initializer: _floats(change.values())} if isinstance(change, WeightChange) else {}

        def part(index: int) -> Rows:
            outputs = self._run({**self._live[index], **fixed}, change)
            root = self.loss.root_times(outputs, float_outputs[index])
            damage = 0.5 * np.square(root).sum(1)
            lost = self.loss.sample_loss(outputs, float_outputs[index])
            sketched = np.full(len(root), float(root.shape[1] > self.sketch))
            return np.column_stack([self._compress(root, index), sketched, damage, lost]).astype(np.float32)

        return _joined(self.cores.map(part, range(len(self._live))), axis=0)

    def _advance(self, target: _Target) -> None:
        """Run up to the target's first cut, and make the chain of segments that lie behind its cuts."""
        cuts = list(target.cuts)
        self._chain.clear()
        if cuts[0] < self._cut:
            self._live, self._cut = self.batches, 0
        if cuts[0] > self._cut:
            segment = self.segments.between(self._cut, cuts[0])
            self._live = self.cores.map(segment.run, self._live)
            self._cut = cuts[0]
        parts = [self.segments.between(*pair) for pair in pairwise(cuts)]
        parts.append(self.segments.after(cuts[-1], (target.weight,) if target.weight else ()))
        self._chain = list(zip(target.cuts.values(), parts, strict=True))
        self._target = target

    def _run(self, values: Values, change: Change) -> dict[str, NDArray[np.float32]]:
        for names, segment in self._chain:
            if isinstance(change, ActivationChange):
                # what leads to no output of the loss is not there
                live = [name for name in names if name in values]
                values = {**values, **{name: _floats(change.rounded(name, values[name])) for name in live}}
            values = segment.run(values)
        return _named_floats(values)

    def _compress(self, root: NDArray[np.float64], batch_index: int) -> NDArray[np.float64]:
        """A count sketch of the columns of `root`, which is overwritten; the same for every candidate, so that inner
        products survive. The buckets are those of the batch; signs of its own make each sample's error independent.
        """
        samples, width = root.shape
        if width <= self.sketch:
            return root
        generator = np.random.default_rng([*self.seed, batch_index])
        buckets = generator.integers(self.sketch, size=width)
        bits = np.frombuffer(generator.bytes(-(-samples * width // 8)), dtype=np.uint8)
        flipped = np.unpackbits(bits, count=samples * width).view(np.bool_).reshape(samples, width)
        np.negative(root, out=root, where=flipped)
        projection = csr_array((np.ones(width), (np.arange(width), buckets)), shape=(width, self.sketch))
        return np.asarray(root @ projection)


def _joined(parts: Sequence[Rows], axis: int) -> Rows:
    """Rows one behind the other; those of shorter samples, which have fewer outputs, are filled up with zeros."""
    width = max(part.shape[-1] for part in parts)
    filled = []
    for part in parts:
        missing = np.zeros((*part.shape[:-1], width - part.shape[-1]), part.dtype)
        filled.append(np.concatenate([part[..., :-3], missing, part[..., -3:]], axis=-1) if missing.size else part)
    return np.concatenate(filled, axis=axis)


def _of_groups(rows: Sequence[Sequence[Rows]]) -> Rows:
    """`[candidates, samples, ...]` from the parts of every group, candidates in order."""
    return _joined([_joined(parts, axis=0) for parts in rows], axis=1)


def _assemble(rows: Sequence[tuple[tuple[int, ...], Rows]], samples: int, sketch: int) -> CrossLayer:
    """G from the rows `[candidates, samples, outputs + 3]` of every site, each with its places in G."""
    count = sum(len(positions) for positions, _ in rows)
    columns = rows[0][1].shape[2]
    sketched = bool(rows[0][1][0, :, -3].any())
    matrix = np.zeros((count, count))
    own = np.zeros((count, samples))
    lost = np.zeros((count, samples))
    for start in range(0, samples, SAMPLES_AT_ONCE):
        block = slice(start, min(start + SAMPLES_AT_ONCE, samples))
        stacked = np.empty((count, block.stop - start, columns))
        for positions, part in rows:
            stacked[list(positions)] = part[:, block]
        own[:, block] = stacked[:, :, -2]
        lost[:, block] = stacked[:, :, -1]
        flat = stacked[:, :, :-3].reshape(count, -1)
        matrix += flat @ flat.T
    return CrossLayer(
        matrix=matrix / (2 * samples),
        sketch_stderr=_sketch_stderr(own, sketch) if sketched else np.zeros_like(matrix),
        damage_stderr=_stderr(own),
        measured=lost.mean(1),
        measured_stderr=_stderr(lost),
        samples=samples,
    )


def _sketch_stderr(own: NDArray[np.float64], sketch: int) -> NDArray[np.float64]:
    """`sqrt(2/m sum_s g_ks g_ls)` from every sample's own damage `N g_ks`, `[candidates, samples]`."""
    shares = own / own.shape[1]
    return np.asarray(np.sqrt(2 / sketch * (shares @ shares.T)))


def _stderr(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard error of the mean over the last axis; NaN where that is infinite."""
    with np.errstate(invalid="ignore"):
        return np.asarray(values.std(1, ddof=1) / np.sqrt(values.shape[1]))


def _named_floats(outputs: Values) -> dict[str, NDArray[np.float32]]:
    return {name: _floats(array) for name, array in outputs.items()}


def _floats(outputs: NDArray[np.generic]) -> NDArray[np.float32]:
    return np.asarray(outputs, dtype=np.float32)
