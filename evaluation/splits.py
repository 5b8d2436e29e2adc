"""The samples are split once, so that nothing is certified on data that chose the plan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CALIBRATION_SHARE = 0.25
MOST_CALIBRATION = 1024
HELD_OUT_SHARE = 0.3


@dataclass(frozen=True, eq=False)
class Splits:
    """Indices of the samples of each part, int64, disjoint unless `undivided`; together they are all samples.

    `calibration` gives ranges and rounding, `search` the scores of candidates and the accuracy during the search,
    `held_out` the certificate alone.
    """

    calibration: NDArray[np.int64]
    search: NDArray[np.int64]
    held_out: NDArray[np.int64]

    def __post_init__(self) -> None:
        for part in (self.calibration, self.search, self.held_out):
            part.flags.writeable = False


def split(samples: int, seed: int, labels: NDArray[np.int64] | None = None) -> Splits:
    """A seeded permutation, cut into calibration (a quarter, at most 1,024), held-out (30 %) and search (the rest).

    With `labels` [samples] each part, and every leading piece of a part, holds the classes in their overall shares to
    within one sample: sample r (in random order) of a class of n goes to position (r + u)/n, with u uniform for each
    class, and the positions are sorted. Balanced parts lower the variance between them; an interval that assumes
    independent samples errs to the wide side.

    Raises:
        ValueError: fewer than 3 samples, or labels of another length. Labels with more axes are not used.
    """
    if samples < 3:
        raise ValueError(f"samples must be at least 3 for three parts, got {samples}")
    if labels is not None and len(labels) != samples:
        raise ValueError(f"expected {samples} labels, got {len(labels)}")
    order = _in_shares(samples, seed, labels)
    calibration = max(1, min(int(CALIBRATION_SHARE * samples), MOST_CALIBRATION))
    held_out = max(1, round(HELD_OUT_SHARE * samples))
    return Splits(
        calibration=order[:calibration].copy(),
        search=order[calibration : samples - held_out].copy(),
        held_out=order[samples - held_out :].copy(),
    )


def undivided(samples: int, seed: int, labels: NDArray[np.int64] | None = None) -> Splits:
    """All samples for the certificate, of a network that was made elsewhere: nothing here is chosen by what it does on
    them. `search` is the same samples, on which the float network alone is looked at, and `calibration` empty. The
    order is that of `split`, so that its first piece stands for all."""
    order = _in_shares(samples, seed, labels)
    return Splits(calibration=order[:0].copy(), search=order.copy(), held_out=order.copy())


def _in_shares(samples: int, seed: int, labels: NDArray[np.int64] | None) -> NDArray[np.int64]:
    generator = np.random.default_rng(seed)
    order = generator.permutation(samples)
    if labels is not None and labels.ndim == 1:
        order = _interleaved(order, labels, generator)
    return order.astype(np.int64)


def _interleaved(
    order: NDArray[np.int64], labels: NDArray[np.int64], generator: np.random.Generator
) -> NDArray[np.int64]:
    """`order` rearranged so that every stretch of it holds the classes in their overall shares."""
    position = np.empty(len(order))
    shuffled = labels[order]
    for label in np.unique(labels):
        members = np.flatnonzero(shuffled == label)
        position[members] = (np.arange(len(members)) + generator.random()) / len(members)
    return order[np.argsort(position, kind="stable")]
