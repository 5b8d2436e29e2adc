"""Which outputs hold detections, and how: seen in names, shapes and values of the float outputs, or said by options.

Known are
1. boxes and scores in one output `[N, 4 + C, A]`, `[N, A, 4 + C]` or with objectness `[N, A, 5 + C]` (YOLO); what
   follows the scores (masks, key points) does not count,
2. rows of boxes, score and class `[N, K, 6]`, after the suppression, in either order, also with a number of the image,
3. boxes `[N, A, 4]`, `[N, A, 1, 4]` or `[N, 4, A]` and scores `[N, A]`, `[N, A, C]` or `[N, C, A]` (SSD, DETR), or
   `[N, K, 5]` with the score, perhaps with classes `[N, K]` and a count `[N]` (TensorFlow, mmdetection).

Boxes that are offsets to anchors are no boxes before the network decodes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.errors import MetricNotApplicable
from evaluation.metrics.boxes import FORMATS, corners_of, shares_of_formats
from evaluation.metrics.detections import Layout, read, without_ones
from evaluation.metrics.measurement import Output, Outputs, Scores
from evaluation.metrics.score_layout import class_axis, has_objectness, probabilities_of, run_of_scores

OPTIONS = (
    "iou",
    "nms_iou",
    "score_threshold",
    "boxes",
    "scores",
    "classes",
    "count",
    "box_format",
    "axis",
    "objectness",
    "activation",
    "background",
)
THRESHOLD = 0.25
"""The score from which a detection counts, halved until half of the images have one, but not below a sixteenth."""
_SAMPLES = 64  # a layout is seen in so many
PLAUSIBLE = 0.95
"""Share of the best boxes that must be boxes in a format."""
_ROWS = ((4, 5, 0), (5, 4, 0), (1, 0, 2), (0, 1, 2), (6, 5, 1), (2, 1, 3))
"""Columns of score, class and first coordinate of detections in rows."""
_BOX_NAMES = ("box", "loc", "det")
_SCORE_NAMES = ("score", "conf", "prob", "logit", "cls")
_CLASS_NAMES = ("class", "label", "categ")
_COUNT_NAMES = ("num", "count", "valid")


@dataclass(frozen=True)
class Detector:
    """Outputs that hold detections, and the options that say how, for `detection_f1` and `detection_map`."""

    names: tuple[str, ...]
    options: Mapping[str, Any]


@np.errstate(invalid="ignore", over="ignore")
def find_detection(outputs: Outputs) -> Detector | None:
    """Whether float outputs are surely detections; None where they may be something else.

    Numbers that could be boxes are not enough: a name says so, or corners are in their order everywhere, or boxes lie
    inside a frame at places that belong to their candidates more than to the images. Outputs without the samples of
    most others, such as constants, are left aside.
    """
    lengths = [len(output) for output in outputs.values() if output.ndim]
    samples = max(set(lengths), key=lengths.count, default=0)
    outputs = {name: output for name, output in outputs.items() if output.ndim and len(output) == samples}
    try:
        layout = layout_of("detection_map", outputs, {})
    except MetricNotApplicable:
        return None
    boxes, scores, _ = (np.concatenate(each) for each in zip(*(rows for _, rows in read(layout, outputs)), strict=True))
    if len(boxes) < 2 or boxes.shape[1] < 4 or not _surely(layout, boxes, scores):
        return None
    options: dict[str, Any] = {"boxes": layout.boxes, "score_threshold": threshold_of(layout, outputs)}
    if layout.scores != layout.boxes:
        options |= {"scores": layout.scores, "activation": layout.activation, "background": layout.background}
    elif layout.class_column is None and layout.classes is None:
        options |= {"axis": layout.axis, "objectness": layout.objectness, "background": layout.background}
    options |= {name: value for name, value in (("classes", layout.classes), ("count", layout.count)) if value}
    return Detector(layout.names, options)


@np.errstate(invalid="ignore", over="ignore")
def layout_of(metric: str, outputs: Outputs, options: Mapping[str, Any]) -> Layout:
    """The layout of detections in float outputs.

    Raises:
        MetricNotApplicable: there is none, the options name outputs or formats that are not there, or the boxes are not
            decoded.
    """
    _check_options(metric, outputs, options)
    tensors = {name: without_ones(output) for name, output in outputs.items()}
    whole, tensors = tensors, {name: output[:_SAMPLES] for name, output in tensors.items()}
    layout = _several(tensors, options)
    if layout is None:
        asked = options.get("boxes")
        names = [asked] if asked else list(tensors)
        found = (_one(name, tensors[name], options) for name in names)
        layout = next((each for each in found if each is not None), None)
    if layout is None:
        shapes = ", ".join(f"{name!r} {list(output.shape)} {output.dtype}" for name, output in outputs.items())
        raise MetricNotApplicable(
            f"{metric} finds no detections in {shapes}; expected boxes and scores in one output [N, 4 + classes, A] or "
            "[N, A, 4 + classes], rows [N, K, 6], or boxes [N, A, 4] and scores [N, A, classes], scores from 0 to 1: "
            "name them in the options `boxes`, `scores` and `classes`, or export the network with its boxes decoded"
        )
    _require_finite(metric, layout, whole)
    asked_format = options.get("box_format")
    return replace(layout, box_format=asked_format or _format_of(metric, layout, tensors))


def threshold_of(layout: Layout, outputs: Outputs) -> float:
    """The score threshold where the request names none."""
    with np.errstate(invalid="ignore"):
        best = np.concatenate(
            [np.nan_to_num(scores, nan=0.0).max(1, initial=0.0) for _, (_, scores, _) in read(layout, outputs)]
        )
    for halvings in range(5):
        threshold = THRESHOLD / 2**halvings
        if np.mean(best >= threshold) >= 0.5:
            return float(threshold)
    return THRESHOLD


def best_boxes(boxes: Scores, scores: Scores, most: int = 32) -> Scores:
    """The boxes `[n, 4]` with the highest scores above 0, some of each image; finite, and not all zero."""
    ranked = np.where(np.isfinite(boxes).all(2) & (boxes != 0).any(2) & (scores > 0), scores, -np.inf)
    places = np.argsort(-ranked, axis=1)[:, :most]
    chosen = np.take_along_axis(boxes, places[..., None], 1)
    return np.asarray(chosen[np.take_along_axis(ranked, places, 1) > -np.inf])


def _format_of(metric: str, layout: Layout, outputs: Outputs) -> str:
    rows = [best_boxes(boxes, scores) for _, (boxes, scores, _) in read(layout, outputs)]
    boxes = np.concatenate(rows)
    ordered, sized = shares_of_formats(boxes)
    if ordered >= PLAUSIBLE:
        return "yxyx" if layout.boxes.startswith("detection_boxes") else "xyxy"
    if sized >= PLAUSIBLE:
        return "cxcywh"
    raise MetricNotApplicable(
        f"{metric}: of the {len(boxes)} best boxes in output {layout.boxes!r} only {ordered:.0%} have their corners in "
        f"order and {sized:.0%} a positive size; they look like offsets to anchors: export the network with its boxes "
        f"decoded, or name the format in `box_format`, one of {', '.join(FORMATS)}"
    )


def _check_options(metric: str, outputs: Outputs, options: Mapping[str, Any]) -> None:
    for option in ("boxes", "scores", "classes", "count"):
        name = options.get(option)
        if name is not None and name not in outputs:
            raise MetricNotApplicable(
                f"{metric}: the option `{option}` is {name!r}; expected one of {', '.join(map(repr, outputs))}"
            )
    known = {
        "box_format": FORMATS,
        "activation": ("none", "sigmoid", "softmax"),
        "background": ("none", "first", "last"),
        "axis": (-2, -1, 1, 2),
    }
    for option, values in known.items():
        if options.get(option) is not None and options[option] not in values:
            raise MetricNotApplicable(
                f"{metric}: the option `{option}` is {options[option]!r}; expected one of {', '.join(map(str, values))}"
            )
    shapes = {name: output.shape for name, output in outputs.items()}
    if not shapes or any(not shape or 0 in shape for shape in shapes.values()):
        raise MetricNotApplicable(f"{metric} needs outputs with samples, got {shapes}")
    if len({shape[0] for shape in shapes.values()}) > 1:
        raise MetricNotApplicable(f"{metric} needs as many samples in each output, got {shapes}")


def _require_finite(metric: str, layout: Layout, tensors: Outputs) -> None:
    """Rows that are NaN altogether are padding after the suppression, and in outputs of one row for each box."""
    flat = np.moveaxis(tensors[layout.boxes], layout.axis, -1)
    padding: NDArray[np.bool_] = np.zeros(flat.shape[:2], dtype=np.bool_)
    if layout.suppressed or layout.scores != layout.boxes:
        padding = np.asarray(np.isnan(flat.astype(np.float64)).all(-1))
    good = {layout.boxes: np.isfinite(flat).all(-1)}
    if layout.scores != layout.boxes:
        scores = tensors[layout.scores]
        scores = scores[..., None] if layout.scores_axis is None else np.moveaxis(scores, layout.scores_axis, -1)
        good[layout.scores] = np.asarray(np.isfinite(scores) | (scores == -np.inf)).all(-1)
    for name, usable in good.items():
        images = np.asarray(usable | padding).all(1)
        if not images.all():
            raise MetricNotApplicable(
                f"the float network gives NaN or infinity in output {name!r} for sample {int(np.argmin(images))}; "
                f"{metric} cannot be measured against that: check the network and this sample"
            )


def _one(name: str, output: Output, options: Mapping[str, Any]) -> Layout | None:
    """Boxes and scores in one output."""
    if output.ndim != 3 or output.dtype.kind != "f":
        return None
    asked = options.get("axis")
    axes = [1, 2] if asked is None else [asked % 3]
    if 2 in axes and (rows := _rows(name, output)) is not None:
        return rows
    for axis in sorted(axes, key=lambda axis: (output.shape[axis], -axis)):
        moved = np.moveaxis(output, axis, -1)
        activation = options.get("activation")
        scores = moved.shape[-1] - 4 if activation in ("sigmoid", "softmax") else run_of_scores(moved)
        if scores < 1:
            continue
        values = moved[..., 4 : 4 + scores]
        if activation is None and _is_distribution(moved):
            continue
        if not _plausible(moved[..., :4], values.max(-1)):
            continue
        stated = options.get("objectness")
        objectness = scores > 1 and (has_objectness(values, axis == 2) if stated is None else bool(stated))
        found = probabilities_of(values[..., 1:] if objectness else values, options)
        return Layout(
            name, axis, 0, "xyxy", name, (4, 4 + scores), axis, None, None, None, objectness, found[0], found[1]
        )
    return None


def _rows(name: str, output: Output) -> Layout | None:
    columns = output.shape[2]
    for score, label, box in _ROWS:
        if max(score, label, box + 3) != columns - 1:
            continue
        rows = output.reshape(-1, columns).astype(np.float64)
        rows = rows[np.isfinite(rows).all(1)]
        rows = rows[(rows[:, score] > 0) & (rows[:, label] >= 0)]
        if len(rows) == 0 or (rows[:, score] > 1).any() or (rows[:, score] % 1 == 0).all():
            continue
        first_ordered = shares_of_formats(rows[:, box : box + 4])[0] >= PLAUSIBLE
        if (rows[:, label] % 1 == 0).all() and first_ordered:
            return Layout(name, 2, box, "xyxy", name, (score, score + 1), 2, class_column=label, suppressed=True)
    return None


def _several(tensors: Outputs, options: Mapping[str, Any]) -> Layout | None:
    """Boxes, scores and perhaps classes in outputs of their own."""
    if len(tensors) < 2:
        return None
    asked = {role: options.get(role) for role in ("boxes", "scores", "classes", "count")}
    boxes = [asked["boxes"]] if asked["boxes"] else _by_name(tensors, _BOX_NAMES)
    for box_name in boxes:
        axis = _axis_of_boxes(tensors[box_name])
        if axis is None:
            continue
        count = tensors[box_name].shape[3 - axis]
        others = [name for name in tensors if name != box_name]
        possible = [asked["classes"]] if asked["classes"] else [name for name in others if name != asked["scores"]]
        classes = _first_named([name for name in possible if _are_classes(tensors[name], count)], _CLASS_NAMES)
        possible = [asked["count"]] if asked["count"] else [name for name in others if name != classes]
        valid = _count_name(tensors, possible, asked["count"] is not None)
        if (asked["classes"] and not classes) or (asked["count"] and not valid):
            continue
        if tensors[box_name].shape[axis] == 5:
            if classes is not None:
                return Layout(box_name, axis, 0, "xyxy", box_name, (4, 5), axis, classes, None, valid, suppressed=True)
            continue
        others = [asked["scores"]] if asked["scores"] else _by_name(tensors, _SCORE_NAMES)
        for name in others:
            if name in (box_name, classes, valid):
                continue
            found = class_axis(tensors[name], count)
            if found is None:
                continue
            scores_axis, scores = found
            moved = tensors[name][..., None] if scores_axis is None else np.moveaxis(tensors[name], scores_axis, -1)
            activation, background = probabilities_of(moved, options)
            given = classes if scores == 1 else None
            return Layout(
                box_name,
                axis,
                0,
                "xyxy",
                name,
                (0, scores),
                scores_axis,
                given,
                count=valid,
                activation=activation,
                background=background if scores > 1 else "none",
                suppressed=given is not None,
            )
    return None


def _by_name(tensors: Outputs, words: tuple[str, ...]) -> list[str]:
    """All names, those with one of the words first."""
    return sorted(tensors, key=lambda name: not any(word in name.lower() for word in words))


def _first_named(names: list[str], words: tuple[str, ...]) -> str | None:
    ranked = sorted(names, key=lambda name: not any(word in name.lower() for word in words))
    return ranked[0] if ranked else None


def _count_name(tensors: Outputs, names: list[str], asked: bool) -> str | None:
    for name in names:
        output = tensors[name]
        named = asked or any(word in name.lower() for word in _COUNT_NAMES)
        if named and output.size == len(output) and _are_whole(output):
            return name
    return None


def _axis_of_boxes(output: Output) -> int | None:
    if output.ndim != 3 or output.dtype.kind != "f":
        return None
    if output.shape[2] in (4, 5):
        return 2
    return 1 if output.shape[1] == 4 else None


def _are_classes(output: Output, count: int) -> bool:
    """Whole numbers `[N, count]`."""
    if output.ndim not in (2, 3) or output.size != len(output) * count or output.shape[1] != count:
        return False
    return _are_whole(output)


def _are_whole(output: Output) -> bool:
    """Integers, or floats that are; NaN is padding."""
    if output.dtype.kind in "iu":
        return True
    values = output[np.isfinite(output)]
    return output.dtype.kind == "f" and len(values) > 0 and bool((np.mod(values, 1) == 0).all())


def _is_distribution(moved: Output) -> bool:
    """Whether the numbers of a candidate, or all of one number, sum to 1, as past a softmax over that axis."""
    return any(bool((np.abs(moved.sum(axis, dtype=np.float64) - 1) < 1e-2).all()) for axis in (1, 2))


def _plausible(boxes: Output, scores: Output) -> bool:
    """False where the best boxes are surely none; where offsets are meant, `_format_of` says so."""
    chosen = best_boxes(boxes.astype(np.float64), scores.astype(np.float64))
    return len(chosen) > 0 and max(shares_of_formats(chosen)) > 0


def _surely(layout: Layout, boxes: Scores, scores: Scores) -> bool:
    chosen = best_boxes(boxes, scores)
    ordered, _ = shares_of_formats(chosen)
    named = any(word in layout.boxes.lower() for word in _BOX_NAMES)
    if layout.box_format in ("xyxy", "yxyx") and ordered > 0.99 and (layout.suppressed or named or len(chosen) > 64):
        return True
    corners = corners_of(chosen, layout.box_format)
    inside = float((corners[:, :2] >= -0.25 * corners[:, 2:].max()).all(1).mean())
    if inside < PLAUSIBLE:
        return False
    centres = corners_of(boxes, layout.box_format)
    centres = centres[..., :2] + centres[..., 2:]
    between = centres.mean(0).var(0).sum()
    return named or bool(between > 0.5 * centres.reshape(-1, 2).var(0).sum())
