"""What a delivered file lost, in plain numpy and from outputs alone: nothing here is the product's code.

Every loss is 0 for the float network itself and larger for a worse one. Outputs that are not finite count as wrong.
"""

from __future__ import annotations

import numpy as np

from benchmarks.certificates.entry import Array


def chosen(scores: Array, axis: int = -1) -> Array:
    """The class with the highest score; -1 where a score is NaN."""
    return np.where(np.isnan(scores).any(axis=axis), -1, np.nan_to_num(scores, nan=-np.inf).argmax(axis=axis))


def changed(before: Array, after: Array, axis: int = -1) -> float:
    """Share of predictions that are not the float network's."""
    return float((chosen(before, axis) != chosen(after, axis)).mean())


def accuracy_lost(before: Array, after: Array, labels: Array, axis: int = -1) -> float:
    """Accuracy of the float network less that of the quantized one; negative labels are ignored."""
    counts = labels >= 0
    right = [(chosen(scores, axis) == labels)[counts].mean() for scores in (before, after)]
    return float(right[0] - right[1])


def balanced_lost(before: Array, after: Array, labels: Array) -> float:
    """The same with every class counting alike."""
    recalls = [
        np.mean([(chosen(scores)[labels == kind] == kind).mean() for kind in np.unique(labels)])
        for scores in (before, after)
    ]
    return float(recalls[0] - recalls[1])


def mean_iou(classes: Array, labels: Array, kinds: int) -> float:
    """Intersection over union of each class over all pixels, in the mean over classes."""
    return float(
        np.mean(
            [
                ((classes == kind) & (labels == kind)).sum() / max(1, ((classes == kind) | (labels == kind)).sum())
                for kind in range(kinds)
            ]
        )
    )


def unexplained(before: Array, after: Array, axis: int | None = None) -> float:
    """Of the worst channel: squared error, divided by that of the mean output (at every position, over samples).

    `axis` separates channels; None: the whole output is one. A channel that never varies is measured by its square.
    """
    x, y = before.astype(np.float64), after.astype(np.float64)
    if not np.isfinite(y).all():
        return float("inf")
    along = tuple(i for i in range(x.ndim) if axis is None or i != axis % x.ndim)
    error = np.square(y - x).sum(axis=along)
    spread = np.square(x - x.mean(axis=0, keepdims=True)).sum(axis=along)
    power = np.square(x).sum(axis=along)
    scale = np.where(spread > 1e-10 * power, spread, power)
    return float(np.max(error / np.maximum(scale, 1e-30)))


def r2_lost(before: Array, after: Array, targets: Array, axis: int | None = None) -> float:
    """R² of the float network less that of the quantized one, of the worst channel."""
    along = tuple(i for i in range(targets.ndim) if axis is None or i != axis % targets.ndim)
    if not np.isfinite(after).all():
        return float("inf")
    spread = np.square(targets - targets.mean(axis=0, keepdims=True)).sum(axis=along)
    errors = [np.square(y.astype(np.float64) - targets).sum(axis=along) for y in (before, after)]
    return float(np.max((errors[1] - errors[0]) / spread))


def flips(before: Array, after: Array, threshold: float = 0.5) -> float:
    """Share of decisions at a threshold that changed; NaN decides nothing, and counts as changed."""
    return float((((before > threshold) != (after > threshold)) | np.isnan(after)).mean())


def auc(scores: Array, labels: Array) -> float:
    """Chance that a positive sample scores above a negative one, ties counting half."""
    positive, negative = (np.nan_to_num(scores[labels == kind].ravel(), nan=-1e9) for kind in (1, 0))
    below = np.searchsorted(np.sort(negative), positive, side="left")
    at_most = np.searchsorted(np.sort(negative), positive, side="right")
    return float((below + at_most).mean() / 2 / len(negative))


def nats_lost(before: Array, after: Array, labels: Array) -> float:
    """Cross-entropy of the right next token: quantized less float, nats."""
    return _cross_entropy(after, labels) - _cross_entropy(before, labels)


def _cross_entropy(logits: Array, labels: Array) -> float:
    x = logits.astype(np.float64)
    x = x - x.max(axis=-1, keepdims=True)
    logs = x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
    counts = labels >= 0
    picked = np.take_along_axis(logs, np.where(counts, labels, 0)[..., None], axis=-1)[..., 0]
    value = -float(picked[counts].mean())
    return value if np.isfinite(value) else float("inf")


def neighbours_lost(before: Array, after: Array) -> float:
    """Share of samples whose nearest other sample by cosine changed to one that is clearly farther (by 0.02).

    Near ties may swap: only a neighbour that the float network finds worse counts.
    """

    def cosines(x: Array) -> Array:
        x = np.nan_to_num(x.astype(np.float64))
        x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
        similar = x @ x.T
        np.fill_diagonal(similar, -np.inf)
        return np.asarray(similar)

    truth, measured = cosines(before), cosines(after)
    rows = np.arange(len(truth))
    return float((truth[rows, measured.argmax(1)] < truth.max(1) - 0.02).mean())


def greedy_text(scores: Array, blank: int = 0) -> list[list[int]]:
    """CTC outputs [N, T, C] read greedily: the best class of each step, repetitions and blanks dropped."""
    best = chosen(scores)
    keep = (best != blank) & np.concatenate([np.ones((len(best), 1), bool), best[:, 1:] != best[:, :-1]], axis=1)
    return [row[kept].tolist() for row, kept in zip(best, keep, strict=True)]


def edits(first: list[int], second: list[int]) -> int:
    """Levenshtein distance."""
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        above, row[0] = row[0], i
        for j, b in enumerate(second, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (a != b))
    return row[-1]


def token_errors(texts: list[list[int]], truths: list[list[int]]) -> float:
    """Edits for each true token."""
    return sum(map(edits, texts, truths)) / max(1, sum(map(len, truths)))
