"""What every candidate gets from probes of the outputs, in parts: a micro-batch each, which are put together in order.

The signs of a micro-batch are those that it would have after all before it. Where samples have outputs of different
sizes, they depend on these, and all micro-batches are one part, as where they take no time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sensitivity.estimate import Subject
from sensitivity.estimators.draws import Draws
from sensitivity.estimators.linearisation import Linearisation, Linearised, MicroBatch
from sensitivity.hutchinson import random_signs
from sensitivity.parts import BACKWARD_PASSES, Part, worth
from sensitivity.traces import measured_outputs, output_probe, outputs_of_one_size, root_length

Sums = Mapping[str, Sequence[Tensor]]
"""By name the sums over units `[units]` of every candidate, in the order of the candidates."""

Work = Callable[[MicroBatch, Linearised, Mapping[str, Tensor]], Sums]
"""What a micro-batch gives, linearised, with `J_v' B' u` of every value v for a probe u of its outputs."""


def probed_draws(
    subject: Subject, linearisation: Linearisation, name: str, work: Work, check: Callable[[float], None]
) -> dict[str, Draws]:
    """The draws of all micro-batches by the names in `work`'s sums, one entry for each change of `linearisation`.

    Args:
        name: of the parts; it says what `work` does.
        check: called after each micro-batch with the fraction done.
    """
    probes = _Probes(subject, linearisation)
    batches = linearisation.batches()

    def compute(places: Iterable[int]) -> Part:
        arrays: dict[str, NDArray[np.generic]] = {}
        for place in places:
            batch = batches[place]
            for key, sums in work(batch, *probes.linearised(place)).items():
                values = [own.detach().double().cpu().numpy() for own in sums]
                arrays[f"{place}/values/{key}"] = np.concatenate(values)
                arrays[f"{place}/units/{key}"] = np.array([len(own) for own in values])
            check(batch.after)
        return arrays

    large = worth(subject.network.network, BACKWARD_PASSES * subject.samples) >= len(batches)
    if large and outputs_of_one_size(subject.network, subject.inputs, subject.loss):
        names = [f"{name}/{place}/{len(batches)}" for place in range(len(batches))]
        parts = subject.spread(names, lambda place: compute([place]))
    else:
        parts = subject.spread([f"{name}/all/{len(batches)}"], lambda _: compute(range(len(batches))))
    draws: dict[str, Draws] = {}
    for place, key, units in _in_order(parts):
        own = draws.setdefault(key, Draws(len(units)))
        for row, values in enumerate(units):
            own.add(row, values, batches[place].samples)
    return draws


def _in_order(parts: Iterable[Part]) -> Iterator[tuple[int, str, list[NDArray[np.generic]]]]:
    """Micro-batch, name, and the sums of every candidate."""
    for part in parts:
        for array_name, lengths in part.items():
            place, kind, key = array_name.split("/", 2)
            if kind == "units":
                yield int(place), key, np.split(part[f"{place}/values/{key}"], np.cumsum(lengths)[:-1])


class _Probes:
    """Any micro-batch, linearised, with the gradients of a probe of its outputs."""

    def __init__(self, subject: Subject, linearisation: Linearisation) -> None:
        self._subject = subject
        self._linearisation = linearisation
        self._batches = linearisation.batches()
        self._generator = torch.Generator()
        self._next = 0
        self._restart()

    def linearised(self, place: int) -> tuple[Linearised, dict[str, Tensor]]:
        if place < self._next:
            self._restart()
        for skipped in range(self._next, place):
            random_signs((self._batches[skipped].samples, self._length), self._generator)
        self._next = place + 1
        linearised = self._linearisation.at(self._batches[place].inputs)
        weighted = output_probe(self._subject.loss, linearised.outputs, self._generator)
        return linearised, linearised.gradients(weighted)

    def _restart(self) -> None:
        self._generator.manual_seed(self._subject.seed)
        self._next = 0

    @cached_property
    def _length(self) -> int:
        """The length of the root, where it is the same for all samples."""
        network, loss = self._subject.network, self._subject.loss
        with torch.no_grad():
            return root_length(loss, measured_outputs(network, loss, network.run(self._batches[0].inputs)))
