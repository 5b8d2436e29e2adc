"""Channel groups of an output: what lies along the axis that separates meanings (coordinates, classes, features).

Which axis that is, is seen in the data: the one along which means and spreads differ most.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Output = NDArray[np.generic]
Scores = NDArray[np.float64]

MOST_GROUPS = 256
"""More channels than that are put together, neighbours with neighbours; each keeps its own variance."""
# A channel whose spread is below this share of its size is constant: float32 rounding is not far below.
CONSTANT = 1e-5


@dataclass(frozen=True, eq=False)
class Channels:
    """The channels of an output `[samples, ...]`.

    `axis`: of the channels; None where a sample is one number. `mean`: the mean output, of the shape of one sample.
    `spread` [channels]: what an error is divided by, the root of the mean over positions of the variance over samples,
    which is the error of the mean output; or the root mean square of a `constant` [channels] one.
    """

    axis: int | None
    mean: Scores
    spread: Scores
    constant: NDArray[np.bool_]

    @classmethod
    def of(cls, output: Output, axis: int | None = None) -> Channels:
        """The channels of a float network's output on samples; `axis` None: the one that separates meanings."""
        axis = separating_axis(output) if axis is None else axis % output.ndim
        mean = output.mean(axis=0, dtype=np.float64)
        variance, size = np.zeros(mean.shape), np.zeros(mean.shape)
        for start in range(0, len(output), _ROWS):
            rows = output[start : start + _ROWS].astype(np.float64)
            variance += np.square(rows - mean).sum(0)
            size += np.square(rows).sum(0)
        deviation, size = (np.sqrt(_by_channel(total / len(output), axis)) for total in (variance, size))
        constant = deviation <= CONSTANT * size
        spread = np.where(constant, size, deviation)
        return cls(axis, mean, np.where(spread > 0, spread, 1.0), constant)

    @property
    def channels(self) -> int:
        return len(self.spread)

    @property
    def groups(self) -> int:
        return min(self.channels, MOST_GROUPS)

    @property
    def edges(self) -> NDArray[np.int64]:
        """Where groups begin, and the end of the last, [groups + 1]."""
        return np.linspace(0, self.channels, self.groups + 1).round().astype(np.int64)

    @property
    def constant_groups(self) -> NDArray[np.bool_]:
        """[groups]: whether all channels of a group are constant."""
        return np.logical_and.reduceat(self.constant, self.edges[:-1])

    def label(self, group: int) -> str:
        """As it is written behind the name of the output: `[3]`, `[0:4]`, or nothing for the only one."""
        if self.channels == 1:
            return ""
        start, stop = self.edges[group : group + 2]
        return f"[{start}]" if stop == start + 1 else f"[{start}:{stop}]"

    def spread_like(self, output: Output) -> Scores:
        """`spread` in a shape that broadcasts over `output`."""
        shape = [1] * output.ndim
        if self.axis is not None:
            shape[self.axis] = self.channels
        return self.spread.reshape(shape)

    def mean_by_group(self, values: Scores) -> Scores:
        """`[samples, groups]`: the mean over positions and over the channels of each group."""
        if self.axis is None:
            return np.asarray(values.reshape(len(values), -1).mean(1)[:, None])
        moved = np.moveaxis(values, self.axis, 1)
        by_channel = moved.reshape(len(values), self.channels, -1).mean(2)
        edges = self.edges
        return np.asarray(np.add.reduceat(by_channel, edges[:-1], axis=1) / np.diff(edges))


_ROWS = 64  # samples in float64 at once


def _by_channel(of_sample: Scores, axis: int | None) -> Scores:
    """[channels]: the mean over positions of an array in the shape of one sample; `axis` counts the samples' axis."""
    if axis is None:
        return np.asarray(of_sample.reshape(1, -1).mean(1))
    moved = np.moveaxis(of_sample, axis - 1, 0)
    return np.asarray(moved.reshape(len(moved), -1).mean(1))


def separating_axis(output: Output) -> int | None:
    """The axis whose channels differ most from each other, in their means and in the logarithms of their spreads.

    None for one number per sample. An output `[samples, n]` has only one that it can be.
    """
    axes = [axis for axis in range(1, output.ndim) if output.shape[axis] > 1]
    if not axes:
        return None
    if len(axes) == 1:
        return axes[0]
    return max(axes, key=lambda axis: _separation(output, axis))


def _separation(output: Output, axis: int) -> float:
    """How much of the variance lies between channels, and how much their spreads differ; both in [0, 1]."""
    mean, deviation, _ = _moments(output, axis)
    within = float(np.square(deviation).mean())
    between = float(mean.var())
    total = within + between
    share = between / total if total > 0 else 0.0
    logs = np.log(np.maximum(deviation, 1e-12 + 1e-6 * deviation.max(initial=0.0)))
    spread = float(logs.std())
    # many channels differ by chance: what few samples of each leave is taken off
    count = output.size / len(mean)
    noise = 1 / math.sqrt(2 * max(count, 1))
    return share + max(spread - noise, 0.0) / (1 + spread)


def _moments(output: Output, axis: int | None) -> tuple[Scores, Scores, Scores]:
    """Mean, standard deviation and root mean square of each channel over samples and positions."""
    others = tuple(i for i in range(output.ndim) if i != axis) if axis is not None else None
    values = output.astype(np.float64)
    mean = np.atleast_1d(values.mean(axis=others))
    size = np.atleast_1d(np.sqrt(np.square(values).mean(axis=others)))
    centred = values - values.mean(axis=others, keepdims=True)
    return mean, np.atleast_1d(np.sqrt(np.square(centred).mean(axis=others))), size
