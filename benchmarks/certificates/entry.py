"""An entry of the zoo: a network, what its job gets, and an independent check of what the delivered file lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Arrays = Mapping[str, Array]
Draw = Callable[[np.random.Generator, int], dict[str, Array]]
"""Samples of a network's distribution: independent, as many as asked for, inputs and truth by name, samples first."""
Check = Callable[[Arrays, Arrays, Arrays], dict[str, float]]
"""Losses by name, from the float outputs, the quantized outputs and the samples (inputs and truth)."""

FRESH = 600


@dataclass(frozen=True, eq=False)
class Entry:
    """A network and its job.

    `samples` is what the job gets, `fresh` are other samples of the same distribution that no job sees. `check` looks
    at outputs alone, with plain numpy. `broken` has, for each loss that `check` names, the value above which the
    network no longer does what it is for. `batch_axes` has the axis of samples of inputs and outputs where it is not
    the first; arrays have their samples first all the same.
    """

    name: str
    family: str
    model: bytes
    samples: dict[str, Array]
    fresh: dict[str, Array]
    budget: dict[str, Any]
    check: Check
    broken: dict[str, float]
    draw: Draw
    batch_axes: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, arrays in (("samples", self.samples), ("fresh", self.fresh)):
            counts = {len(array) for array in arrays.values()}
            if len(counts) != 1:
                raise ValueError(f"{self.name}: {name} must have one number of samples, got {sorted(counts)}")
        if not self.broken:
            raise ValueError(f"{self.name}: an entry needs a threshold for what is broken")


def made(
    name: str,
    family: str,
    model: bytes,
    draw: Draw,
    check: Check,
    broken: dict[str, float],
    *,
    max_drop: float = 0.02,
    metric: str | None = None,
    samples: int = 800,
    truth: bool = True,
    batch_axes: dict[str, int] | None = None,
) -> Entry:
    """An entry with samples drawn anew for the job and for the check.

    `truth` False: the job gets the inputs alone, without the labels or targets that `draw` gives.
    """
    given = draw(np.random.default_rng(101), samples)
    if not truth:
        given = {key: array for key, array in given.items() if not is_truth(key)}
    budget: dict[str, Any] = {"max_drop": max_drop}
    if metric is not None:
        budget["metric"] = metric
    fresh = draw(np.random.default_rng(202), FRESH)
    return Entry(name, family, model, given, fresh, budget, check, broken, draw, batch_axes or {})


def is_truth(name: str) -> bool:
    """Whether an array of the samples is not an input: labels, targets (also of one output) or boxes."""
    return name.split(".")[0] in ("labels", "targets", "boxes")


BUILDERS: dict[str, Callable[[], Entry]] = {}


def entry(build: Callable[[], Entry]) -> Callable[[], Entry]:
    """Registers a builder under its own name; nothing is trained before it is called."""
    if build.__name__ in BUILDERS:
        raise ValueError(f"two entries are called {build.__name__}")
    BUILDERS[build.__name__] = build
    return build
