"""Hostile uploads by seed: sound networks that were changed, files made to do harm, and archives of both kinds.

The same count and seed give the same files, and a longer list begins with the shorter one.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.service import hostile_archives, hostile_made, hostile_mutations
from benchmarks.service.hostile_seeds import NAMES, sound

MUTATED, MADE = 0.7, 0.15
"""Shares; the rest are archives. Among what is made, some take as long as a job is allowed to."""

WITHOUT_SAMPLES = 0.2
"""Of the mutated ones."""


@dataclass(frozen=True, slots=True)
class HostileFile:
    """What somebody uploads for one job: `dataset` is None where samples are made from the shapes of the model.

    `kind` is the family of the trick; `name` is unique in a list.
    """

    name: str
    kind: str
    model: bytes
    dataset: bytes | None = None


def hostile_files(count: int, seed: int = 0, *, first: int = 0) -> Iterator[HostileFile]:
    """`count` hostile uploads of the endless list of this seed, from its place `first` on."""
    for index in range(first, first + count):
        yield hostile_file(index, seed)


def hostile_file(index: int, seed: int = 0) -> HostileFile:
    """The upload at this place of the list."""
    kind, chance = _drawn(index, seed)
    if kind in hostile_made.MADE:
        return HostileFile(f"{index}-{kind}", kind, hostile_made.MADE[kind](chance))
    if kind in hostile_archives.MODELS:
        return HostileFile(f"{index}-{kind}", kind, hostile_archives.MODELS[kind](chance))
    if kind in hostile_archives.DATASETS:
        data = hostile_archives.DATASETS[kind](chance)
        return HostileFile(f"{index}-{kind}", kind, hostile_archives.sound_model(), data)
    source = sound(chance.choice(NAMES))
    model = hostile_mutations.mutated(source.model, kind, chance)
    # with samples made from its shapes, more of what the model says is believed
    dataset = None if chance.random() < WITHOUT_SAMPLES else source.dataset
    return HostileFile(f"{index}-{kind}-{source.name}", kind, model, dataset)


def kind_of(index: int, seed: int = 0) -> str:
    """The kind of the upload at this place, which is not made."""
    return _drawn(index, seed)[0]


def _drawn(index: int, seed: int) -> tuple[str, random.Random]:
    chance = random.Random(f"{seed}/{index}")
    share = chance.random()
    if share < MUTATED:
        return chance.choice(hostile_mutations.KINDS), chance
    if share < MUTATED + MADE:
        return chance.choice(tuple(hostile_made.MADE)), chance
    return chance.choice((*hostile_archives.MODELS, *hostile_archives.DATASETS)), chance
