"""Hostile uploads by seed: sound networks that were changed, files made to do harm, and archives of both kinds.

The same count and seed give the same files, and a longer list begins with the shorter one.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.service import hostile_archives, hostile_made, hostile_mutations
from benchmarks.service.hostile_seeds import NAMES, seed

MUTATED, MADE = 0.7, 0.15
"""Shares; the rest are archives. Among what is made, some take as long as a job is allowed to."""


@dataclass(frozen=True, slots=True)
class HostileFile:
    """What somebody uploads for one job: `dataset` is None where samples are made from the shapes of the model.

    `kind` is the family of the trick; `name` is unique in a list.
    """

    name: str
    kind: str
    model: bytes
    dataset: bytes | None = None


def hostile_files(count: int, seed_: int = 0) -> Iterator[HostileFile]:
    """The first `count` hostile uploads of this seed."""
    for index in range(count):
        yield hostile_file(index, seed_)


def hostile_file(index: int, seed_: int = 0) -> HostileFile:
    """The upload at this place of the list."""
    chance = random.Random(f"{seed_}/{index}")
    share = chance.random()
    if share < MUTATED:
        source = seed(chance.choice(NAMES))
        kind = chance.choice(hostile_mutations.KINDS)
        model = hostile_mutations.mutated(source.model, kind, chance)
        # without its samples more of the made ones are run
        dataset = None if chance.random() < 0.2 else source.dataset
        return HostileFile(f"{index}-{kind}-{source.name}", kind, model, dataset)
    if share < MUTATED + MADE:
        kind = chance.choice(tuple(hostile_made.MADE))
        return HostileFile(f"{index}-{kind}", kind, hostile_made.MADE[kind](chance))
    kind = chance.choice((*hostile_archives.MODELS, *hostile_archives.DATASETS))
    if kind in hostile_archives.MODELS:
        return HostileFile(f"{index}-{kind}", kind, hostile_archives.MODELS[kind](chance))
    dataset = hostile_archives.DATASETS[kind](chance)
    return HostileFile(f"{index}-{kind}", kind, hostile_archives.sound_model(), dataset)
