"""Detections of a network: its outputs read by a layout, filtered by score, and without those that another one covers.

The layout is found once, on the float outputs (`evaluation.metrics.detection_layout`), and read from both networks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logsumexp

from evaluation.metrics.boxes import corners_of, suppress
from evaluation.metrics.measurement import Output, Outputs, Scores

MOST_CANDIDATES = 1000
"""Of an image's candidates before the suppression, the best."""
MOST_DETECTIONS = 300
"""Of an image's detections, the best."""
MOST_CLASS = 1 << 20
_CHUNK_ELEMENTS = 1 << 22


@dataclass(frozen=True)
class Layout:
    """How detections lie in outputs.

    Args:
        boxes: name of the output with boxes, `[N, A, ...]` or `[N, ..., A]`.
        axis: of this output without its axes of length 1, that of the numbers of a box: 1 or 2.
        box: number of the first coordinate along it.
        box_format: one of `boxes.FORMATS`.
        scores: name of the output with scores, `[N, A]`, `[N, A, C]` or `[N, C, A]`; that of the boxes where they are
            in the same one.
        score: first and last + 1 of the scores along the axis of classes.
        scores_axis: of classes, 1 or 2; None where the scores are `[N, A]`.
        classes: name of the output with the class of each box, `[N, A]`, or None.
        class_column: of the class in the output of the boxes, or None.
        count: name of the output with the number of boxes, `[N]`, or None.
        objectness: whether the first score is that there is anything, and multiplies the others.
        activation: `none`, `sigmoid` or `softmax`: what makes probabilities of scores.
        background: `none`, `first` or `last`: the class that means nothing.
        suppressed: whether boxes that another one covers were removed by the network.
    """

    boxes: str
    axis: int
    box: int
    box_format: str
    scores: str
    score: tuple[int, int]
    scores_axis: int | None
    classes: str | None = None
    class_column: int | None = None
    count: str | None = None
    objectness: bool = False
    activation: str = "none"
    background: str = "none"
    suppressed: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for name in (self.boxes, self.scores, self.classes, self.count) if name))

    @property
    def class_count(self) -> int | None:
        """Classes of the network, its background among them; None where it gives their numbers."""
        if self.classes is not None or self.class_column is not None:
            return None
        return self.score[1] - self.score[0] - int(self.objectness)


@dataclass(frozen=True, eq=False)
class Detections:
    """Detections of all images, `[detections, ...]` by image, the best first; `corners` x1, y1, x2, y2."""

    image: NDArray[np.int64]
    corners: Scores
    score: Scores
    label: NDArray[np.int64]

    def take(self, places: NDArray[np.generic]) -> Detections:
        return Detections(self.image[places], self.corners[places], self.score[places], self.label[places])

    def __len__(self) -> int:
        return len(self.image)


def detections_of(layout: Layout, outputs: Outputs, lowest: float, overlap: float) -> Detections:
    """What a network finds.

    A candidate counts as its best class. One with a number that is not finite, or without an area, is none.

    Args:
        lowest: a score below is none.
        overlap: intersection over union of boxes of the same class above which only the better one stays.
    """
    parts = [_filtered(layout, lowest, start, *rows) for start, rows in read(layout, outputs)]
    found = Detections(*(np.concatenate(each) for each in zip(*parts, strict=True)))
    found = best_of(found, MOST_CANDIDATES)
    if not layout.suppressed:
        order = np.lexsort((-found.score, found.label, found.image))
        found = found.take(order)
        found = found.take(suppress(found.image * (MOST_CLASS + 1) + found.label, found.corners, overlap))
    return best_of(found, MOST_DETECTIONS)


def best_of(found: Detections, most: int) -> Detections:
    """At most so many of each image, sorted by image and score."""
    found = found.take(np.lexsort((-found.score, found.image)))
    starts = np.searchsorted(found.image, found.image)
    return found.take(np.arange(len(found)) - starts < most)


def read(layout: Layout, outputs: Outputs) -> Iterator[tuple[int, tuple[Scores, Scores, Scores]]]:
    """Some images at a time: number of the first, boxes `[n, A, 4]`, scores `[n, A]`, classes `[n, A]`.

    Boxes are in the layout's format, scores are probabilities of the best class; NaN where they are not finite.
    """
    tensors = {name: without_ones(outputs[name]) for name in layout.names if name != layout.count}
    samples = len(tensors[layout.boxes])
    largest = max(tensor[:1].size for tensor in tensors.values())
    rows = max(1, _CHUNK_ELEMENTS // max(1, largest))
    for start in range(0, samples, rows):
        some = {name: tensor[start : start + rows] for name, tensor in tensors.items()}
        boxes = np.moveaxis(some[layout.boxes], layout.axis, -1)[..., layout.box : layout.box + 4].astype(np.float64)
        scores, classes = _best_classes(layout, some[layout.scores])
        if layout.classes is not None:
            classes = some[layout.classes].reshape(scores.shape).astype(np.float64)
        elif layout.class_column is not None:
            classes = np.moveaxis(some[layout.boxes], layout.axis, -1)[..., layout.class_column].astype(np.float64)
        if layout.count is not None:
            counts = outputs[layout.count][start : start + rows].reshape(-1, 1).astype(np.float64)
            scores = np.where(np.arange(scores.shape[1]) < counts, scores, np.nan)
        yield start, (boxes, scores, classes)


def without_ones(output: Output) -> Output:
    """An output of more than three axes without those of length 1 between the samples and the last axis, then at the
    end, until three are left."""
    while output.ndim > 3:
        ones = [axis for axis in (*range(1, output.ndim - 1), output.ndim - 1) if output.shape[axis] == 1]
        if not ones:
            break
        output = output.squeeze(ones[0])
    return output


def _best_classes(layout: Layout, tensor: Output) -> tuple[Scores, Scores]:
    if layout.scores_axis is None:
        scores = tensor.astype(np.float64)
        scores[~np.isfinite(scores)] = np.nan
        return (expit(scores) if layout.activation == "sigmoid" else scores), np.zeros(scores.shape)
    first, last = layout.score
    values = np.moveaxis(tensor, layout.scores_axis, -1)[..., first:last]
    thing: Scores | float = 1.0
    if layout.objectness:
        thing, values = values[..., 0].astype(np.float64), values[..., 1:]
    skipped = 1 if layout.background == "first" else 0
    kept = values[..., skipped : values.shape[-1] - (layout.background == "last")]
    with np.errstate(invalid="ignore", over="ignore"):
        best = kept.argmax(-1)
        scores = np.take_along_axis(kept, best[..., None], -1)[..., 0].astype(np.float64)
        if layout.activation == "softmax":
            scores = np.exp(scores - logsumexp(values.astype(np.float64), axis=-1))
        elif layout.activation == "sigmoid":
            scores = np.where(np.isfinite(scores), expit(scores), np.nan)
            thing = expit(thing) if layout.objectness else thing
        scores = scores * thing
    scores[~np.isfinite(scores)] = np.nan
    return scores, (best + skipped).astype(np.float64)


def _filtered(
    layout: Layout, lowest: float, start: int, boxes: Scores, scores: Scores, classes: Scores
) -> tuple[NDArray[np.int64], Scores, Scores, NDArray[np.int64]]:
    image, place = np.nonzero(scores >= lowest)
    boxes, scores, classes = boxes[image, place], scores[image, place], classes[image, place]
    with np.errstate(invalid="ignore", over="ignore"):
        corners = corners_of(boxes, layout.box_format)
        usable = (np.abs(corners) < 1e100).all(1) & (corners[:, 2:] > corners[:, :2]).all(1)
        usable &= (classes >= 0) & (classes < MOST_CLASS)
    return image[usable] + start, corners[usable], scores[usable], np.rint(classes[usable]).astype(np.int64)
