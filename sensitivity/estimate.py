"""The input and the result of an estimator of sensitivity: a predicted damage for each candidate.

Shapes: `K` candidates, in the order of `Subject.changes`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from network.execution import TorchNetwork
from sensitivity.loss import Loss
from sensitivity.parts import Spread, in_order

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class WeightChange:
    """A candidate that rounds a weight: the initializer takes `values()`, in its own shape.

    `values` is called whenever they are needed, by some methods once for each micro-batch, and nothing keeps them.
    """

    site: str
    format: str
    initializer: str
    values: Callable[[], Floats]


@dataclass(frozen=True, eq=False)
class ActivationChange:
    """A candidate that rounds activations: each named value `a` becomes `tensors[name](a)`, of the same shape."""

    site: str
    format: str
    tensors: Mapping[str, Callable[[Floats], Floats]]

    def rounded(self, name: str, value: NDArray[np.generic]) -> Floats:
        """What the named value becomes, `value` being float32.

        Raises:
            ValueError: it is not, or the rounding gives another shape.
        """
        if value.dtype != np.float32:
            raise ValueError(f"value {name!r} of site {self.site!r} is {value.dtype}; expected float32 to round")
        rounded = self.tensors[name](np.asarray(value, dtype=np.float32))
        if rounded.shape != value.shape:
            raise ValueError(
                f"rounding {name!r} to {self.format} gave the shape {rounded.shape}; expected that of the value, "
                f"{value.shape}"
            )
        return rounded


Change = WeightChange | ActivationChange


@dataclass(frozen=True, eq=False)
class Subject:
    """What is estimated, on which samples.

    `inputs` are arrays `[samples, ...]` by graph input name; `loss` has the network's own float outputs as its
    reference; `batch` samples at most go through the network at once, which bounds the memory; `seed` makes every
    draw repeatable; `check` is called with the fraction done, at least after every batch; `spread` gives the parts of
    methods that have some.

    Raises:
        ValueError: there is no candidate, or fewer than 2 samples; `batch` is below 1.
    """

    network: TorchNetwork
    changes: tuple[Change, ...]
    inputs: Mapping[str, NDArray[np.generic]]
    loss: Loss
    seed: int = 0
    batch: int = 64
    check: Callable[[float], None] = lambda _fraction: None
    spread: Spread = in_order

    def __post_init__(self) -> None:
        if not self.changes:
            raise ValueError("there is no candidate to estimate; expected at least one")
        if self.samples < 2:
            raise ValueError(f"an estimate with its standard error needs at least 2 samples, got {self.samples}")
        if self.batch < 1:
            raise ValueError(f"batch must be at least 1, got {self.batch}")

    @property
    def samples(self) -> int:
        return len(next(iter(self.inputs.values())))

    @property
    def weight_changes(self) -> dict[int, WeightChange]:
        """The candidates that round a weight, by their place in `changes`."""
        return {k: change for k, change in enumerate(self.changes) if isinstance(change, WeightChange)}

    @property
    def activation_changes(self) -> dict[int, ActivationChange]:
        """The candidates that round activations, by their place in `changes`."""
        return {k: change for k, change in enumerate(self.changes) if isinstance(change, ActivationChange)}

    @property
    def weights(self) -> list[str]:
        """The initializers that candidates round, each once, in the order of the candidates."""
        return list(dict.fromkeys(change.initializer for change in self.weight_changes.values()))

    def take(self, samples: NDArray[np.int64]) -> Subject:
        """The same candidates on these samples only."""
        return replace(self, inputs={name: array[samples] for name, array in self.inputs.items()})


class Unit(StrEnum):
    """What a score counts: nats (or squared output units) of predicted damage, or something that only orders."""

    DAMAGE = "damage"
    RELATIVE = "relative"


@dataclass(frozen=True, eq=False)
class Estimate:
    """The result of one method.

    `scores` `[K]` is the predicted damage of each candidate alone, NaN where the method does not cover its kind;
    `stderr` `[K]` is the standard error over draws or samples (0 where nothing is random, infinite where a single draw
    says nothing about the spread); `samples` were used; `note` says in words what the reader should know, or is empty.
    """

    method: str
    unit: Unit
    scores: NDArray[np.float64]
    stderr: NDArray[np.float64]
    samples: int
    note: str = ""

    def __post_init__(self) -> None:
        if self.scores.shape != self.stderr.shape or self.scores.ndim != 1:
            raise ValueError(
                f"scores {self.scores.shape} and stderr {self.stderr.shape} must both be one number a candidate"
            )


Estimator = Callable[[Subject], Estimate]
"""What each file of `sensitivity.estimators` has, called like the method; raises ValueError where it covers nothing."""
