"""The loss of whole plans, measured in ONNX Runtime on any graph that it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from network.graph import Network
from network.runtime import SideBySide
from network.segments import Segment, SegmentedNetwork, Values
from sensitivity.cross_layer import changed_names
from sensitivity.estimate import ActivationChange, Change, WeightChange
from sensitivity.loss import Loss


class MeasuredPlans:
    """Runs a network with any of the candidates made at once.

    The network is cut behind every value that some candidate rounds, so a plan's values are rounded one after the
    other, each as it arrives. Every plan has sessions of its own, in which its weights are constants: ONNX Runtime lays
    out constant weights of convolutions for the processor once, and runs a ResNet20 in 0.6 of the time that it takes
    with weights that are inputs.

    Args:
        network: the float network.
        changes: the candidates; a plan is a list of places in this sequence.
        inputs: arrays `[samples, ...]` by graph input name.
        loss: which loss; its reference are the float outputs.
        threads: cores to use.
        batch: samples that run at once, shared out to the cores.
        check: called after every batch, those of the float network included.

    Raises:
        ValueError: a candidate names something that is not there, or that nothing reads.
    """

    def __init__(
        self,
        network: Network,
        changes: Sequence[Change],
        inputs: Mapping[str, NDArray[np.generic]],
        loss: Loss,
        *,
        threads: int = 1,
        batch: int = 64,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._changes = changes
        self._loss = loss
        self._check = check
        self._batch = batch
        self._cores = SideBySide.of(batch, threads, network.static_batch)
        self._batches: list[list[Values]] = self._cores.calls(network.batching, inputs, batch)
        self._segments = SegmentedNetwork(network, self._cores.threads, loss.outputs)
        for weight in {change.initializer for change in changes if isinstance(change, WeightChange)}:
            self._segments.first_use(weight)  # raises for one that is not there
        values = {name for change in changes if isinstance(change, ActivationChange) for name in change.tensors}
        places = {name: self._segments.made_at(name) for name in sorted(values)}
        self._cuts = sorted({0, *places.values()})
        self._made = [[name for name, place in places.items() if place == cut] for cut in self._cuts]
        parts = self._parts({})
        self._float_outputs = [self._run(parts, values, {}) for values in self._batches]

    def losses(self, plan: Sequence[int], samples: int | None = None) -> NDArray[np.float64]:
        """The loss of every sample, `[samples]`, with the candidates at these places made; 0 for the empty plan.

        Args:
            plan: places of candidates.
            samples: only of the first so many, rounded up to whole batches; None for all.

        Raises:
            ValueError: two candidates change the same weight or value.
        """
        changes = [self._changes[place] for place in plan]
        require_compatible(changes)
        weights = _Values({change.initializer: change for change in changes if isinstance(change, WeightChange)})
        rounding = {
            name: change for change in changes if isinstance(change, ActivationChange) for name in change.tensors
        }
        parts = self._parts(weights)
        losses: list[NDArray[np.float64]] = []
        for values, reference in zip(self._batches, self._float_outputs, strict=True):
            if samples is not None and sum(map(len, losses)) >= samples:
                break
            losses.append(self._loss.sample_loss(self._run(parts, values, rounding), reference))
        return np.concatenate(losses)

    def _parts(self, weights: Mapping[str, NDArray[np.float32]]) -> list[Segment]:
        """The network from cut to cut, with these weights in place of its own."""
        parts = [self._segments.between(*pair, replaced=weights) for pair in pairwise(self._cuts)]
        return [*parts, self._segments.after(self._cuts[-1], replaced=weights)]

    def _run(
        self, parts: Sequence[Segment], batch: Sequence[Values], rounding: Mapping[str, ActivationChange]
    ) -> dict[str, NDArray[np.float32]]:
        def outputs(values: Values) -> Values:
            for names, part in zip(self._made, parts, strict=True):
                # what leads to no output of the loss is not there
                live = [name for name in names if name in rounding and name in values]
                rounded = {name: rounding[name].rounded(name, values[name]) for name in live}
                values = part.run({**values, **rounded})
            return values

        parts_of_outputs = self._cores.map(outputs, batch)
        self._check()
        return {
            name: np.concatenate([np.asarray(part[name], dtype=np.float32) for part in parts_of_outputs])
            for name in self._loss.outputs
        }


class _Values(Mapping[str, NDArray[np.float32]]):
    """The values of changed weights by initializer name, each made when it is asked for: all are a float file."""

    def __init__(self, changes: Mapping[str, WeightChange]) -> None:
        self._changes = changes

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        return np.asarray(self._changes[name].values(), dtype=np.float32)

    def __contains__(self, name: object) -> bool:
        return name in self._changes  # without its values

    def __iter__(self) -> Iterator[str]:
        return iter(self._changes)

    def __len__(self) -> int:
        return len(self._changes)


def require_compatible(plan: Sequence[Change]) -> None:
    """No two candidates of a plan may change the same thing or belong to the same site.

    Raises:
        ValueError: two do.
    """
    taken: dict[str, Change] = {}
    for change in plan:
        for name in (f"site {change.site}", *changed_names(change)):
            if name in taken:
                raise ValueError(
                    f"candidates {taken[name].format!r} and {change.format!r} both change {name!r}; "
                    "expected at most one candidate of each site in a plan"
                )
            taken[name] = change
