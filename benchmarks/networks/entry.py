"""An entry of the zoo: a network as somebody has it, the samples of its job, and other samples that no job sees."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Arrays = Mapping[str, Array]
Draw = Callable[[np.random.Generator, int], dict[str, Array]]
"""Inputs by name, samples first, as many samples as asked for; `group/name` where samples have several lengths."""

SAMPLES, FRESH = 240, 400
MAX_DROP = 0.02


@dataclass(frozen=True)
class Refusal:
    """The codes that a refusal may have, and what its text has to hold (a regular expression)."""

    codes: tuple[str, ...]
    says: str


@dataclass(frozen=True)
class Cache:
    """How a decoder is run step by step: which output goes into which input, and where the length is.

    `ids` is the input of new tokens [N, tokens] and `logits` the output [N, tokens, classes]. `presents` has the output
    that becomes each input of the past. `length_axis` is the axis of the past that grows.
    """

    ids: str
    logits: str
    presents: Mapping[str, str]
    length_axis: int


@dataclass(frozen=True, eq=False)
class Network:
    """A network and its job.

    Args:
        model: the file, with its weights.
        samples: what the job gets, `fresh`: samples of the same distribution that it does not get.
        batch_axes: where an input or output has its batch, for those that do not have it first; None: it has none, and
            each sample is a whole call.
        lengths: feeds of ONNX Runtime with other lengths than the samples have, which the network takes too.
        beside: files that belong beside the model (its external data), by name.
    """

    model: bytes
    samples: dict[str, Array]
    fresh: dict[str, Array]
    request: dict[str, Any]
    batch_axes: Mapping[str, int | None] = field(default_factory=dict)
    refusal: Refusal | None = None
    cache: Cache | None = None
    lengths: tuple[dict[str, Array], ...] = ()
    beside: Mapping[str, bytes] = field(default_factory=dict)


def made(
    model: bytes,
    draw: Draw,
    *,
    labels: Callable[[Arrays, np.random.Generator], Array] | None = None,
    targets: Callable[[Arrays, np.random.Generator], Array] | None = None,
    samples: int = SAMPLES,
    max_drop: float = MAX_DROP,
    request: Mapping[str, Any] | None = None,
    **rest: Any,
) -> Network:
    """An entry with samples drawn anew for the job and for the check; `labels` or `targets` say what is right."""
    drawn = []
    for seed, count in ((101, samples), (202, FRESH)):
        rng = np.random.default_rng(seed)
        arrays = draw(rng, count)
        for name, truth in (("labels", labels), ("targets", targets)):
            if truth is not None:
                arrays[name] = truth(arrays, rng)
        drawn.append(arrays)
    given, fresh = drawn
    budget = {"budget": {"max_drop": max_drop}}
    return Network(model, given, fresh, {**budget, **(request or {})}, **rest)


@dataclass(frozen=True)
class Builder:
    """`kind` is what people call such a network; nothing is made before `build` is called."""

    name: str
    kind: str
    build: Callable[[], Network]


BUILDERS: dict[str, Builder] = {}


def network(kind: str) -> Callable[[Callable[[], Network]], Callable[[], Network]]:
    """Registers a builder under its own name."""

    def register(build: Callable[[], Network]) -> Callable[[], Network]:
        if build.__name__ in BUILDERS:
            raise ValueError(f"two networks are called {build.__name__}")
        BUILDERS[build.__name__] = Builder(build.__name__, kind, build)
        return build

    return register
