"""Detectors as outputs: images with objects, and what a network says of them, in the layouts that people export."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CLASSES = 3
ANCHORS = 36


@dataclass(frozen=True, eq=False)
class Scene:
    """`corners` [N, A, 4] in pixels, `scores` [N, A, CLASSES], `truth` as the data bring it."""

    corners: np.ndarray
    scores: np.ndarray
    truth: dict[str, np.ndarray]


def scene(samples: int = 40, seed: int = 0, hard: float = 1.0) -> Scene:
    """A grid of 6 x 6 candidates of 100 pixels; an object near every tenth, found with a score that is mostly high."""
    generator = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(np.arange(6), np.arange(6)), -1).reshape(1, ANCHORS, 2) * 100 + 50.0
    centres = grid + generator.uniform(-20, 20, (samples, ANCHORS, 2))
    sizes = generator.uniform(40, 90, (samples, ANCHORS, 2))
    objects = generator.random((samples, ANCHORS)) < 0.1
    objects[:, 7] |= ~objects.any(1)
    labels = np.where(objects, generator.integers(0, CLASSES, objects.shape), -1)
    true = np.concatenate([centres - sizes / 2, centres + sizes / 2], -1)
    logits = generator.normal(-5, 1.2 * hard, (samples, ANCHORS, CLASSES))
    own = np.maximum(labels, 0)[..., None]
    raised = generator.normal(1.5, 1.2 * hard, (samples, ANCHORS, 1))
    np.put_along_axis(logits, own, np.where(objects[..., None], raised, np.take_along_axis(logits, own, -1)), -1)
    corners = true + generator.normal(0, 5 * hard, true.shape)
    truth = {"boxes": np.where(objects[..., None], true, 0).astype(np.float32), "labels": labels}
    return Scene(corners.astype(np.float32), (1 / (1 + np.exp(-logits))).astype(np.float32), truth)


def noisy(original: Scene, noise: float, seed: int = 1) -> Scene:
    """What a quantized network says: boxes off by pixels, logits by units."""
    generator = np.random.default_rng(seed)
    corners = original.corners + noise * 8 * generator.normal(size=original.corners.shape)
    logits = np.log(original.scores / (1 - original.scores)) + noise * generator.normal(size=original.scores.shape)
    return Scene(corners.astype(np.float32), (1 / (1 + np.exp(-logits))).astype(np.float32), original.truth)


def sized(corners: np.ndarray) -> np.ndarray:
    return np.concatenate([(corners[..., :2] + corners[..., 2:]) / 2, corners[..., 2:] - corners[..., :2]], -1)


def yolo8(found: Scene) -> dict[str, np.ndarray]:
    return {"output0": np.concatenate([sized(found.corners), found.scores], -1).transpose(0, 2, 1)}


def yolo8_with_masks(found: Scene) -> dict[str, np.ndarray]:
    masks = np.tile(np.linspace(-2, 2, 5, dtype=np.float32), (*found.scores.shape[:2], 1))
    joined = np.concatenate([sized(found.corners), found.scores, masks], -1)
    return {"output0": joined.transpose(0, 2, 1), "output1": np.ones((len(joined), 5, 4, 4), np.float32)}


def yolo5(found: Scene) -> dict[str, np.ndarray]:
    """Objectness, and classes that are sure of themselves where there is nothing too."""
    thing = found.scores.max(-1, keepdims=True) ** 0.98
    return {"output": np.concatenate([sized(found.corners) / 640, thing, found.scores / thing], -1).astype(np.float32)}


def corners_in_one(found: Scene) -> dict[str, np.ndarray]:
    return {"out": np.concatenate([found.corners / 640, found.scores], -1)}


def ssd(found: Scene) -> dict[str, np.ndarray]:
    """Softmax with a background in front, so that classes count from 1."""
    rest = np.maximum(1 - found.scores.sum(-1, keepdims=True), 0)
    joined = np.concatenate([rest, found.scores], -1)
    return {"scores": joined / joined.sum(-1, keepdims=True), "boxes": found.corners[:, :, None] / 300}


def detr(found: Scene) -> dict[str, np.ndarray]:
    rest = np.maximum(1 - found.scores.sum(-1, keepdims=True), 1e-6)
    logits = np.log(np.concatenate([found.scores, rest], -1)) + 3
    return {"logits": logits.astype(np.float32), "pred_boxes": sized(found.corners) / 640}


def sigmoid_logits(found: Scene) -> dict[str, np.ndarray]:
    logits = np.log(found.scores / (1 - found.scores))
    return {"dets": sized(found.corners) / 640, "labels": logits.transpose(0, 2, 1)}


def ranked(found: Scene) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The 20 best of each image: corners, scores, classes."""
    best = found.scores.max(-1)
    order = np.argsort(-best, axis=1)[:, :20]
    take = np.take_along_axis
    return take(found.corners, order[..., None], 1), take(best, order, 1), take(found.scores.argmax(-1), order, 1)


def rows(found: Scene) -> dict[str, np.ndarray]:
    """Past the suppression, and padded with NaN."""
    corners, scores, classes = ranked(found)
    joined = np.concatenate([corners, scores[..., None], classes[..., None]], -1).astype(np.float32)
    joined[scores < 0.02] = np.nan
    return {"detections": joined}


def rows_class_first(found: Scene) -> dict[str, np.ndarray]:
    return {"detections": rows(found)["detections"][..., [0, 1, 2, 3, 5, 4]]}


def tensorflow(found: Scene) -> dict[str, np.ndarray]:
    corners, scores, classes = ranked(found)
    counts = np.full(len(corners), 20, np.float32)
    return {
        "detection_boxes": corners[..., [1, 0, 3, 2]] / 640,
        "detection_classes": classes.astype(np.float32),
        "detection_scores": scores,
        "num_detections": counts,
    }


def mmdetection(found: Scene) -> dict[str, np.ndarray]:
    corners, scores, classes = ranked(found)
    return {"dets": np.concatenate([corners, scores[..., None]], -1), "labels": classes.astype(np.int64)}


LAYOUTS = {
    layout.__name__: layout
    for layout in (
        yolo8,
        yolo8_with_masks,
        yolo5,
        corners_in_one,
        ssd,
        detr,
        sigmoid_logits,
        rows,
        rows_class_first,
        tensorflow,
        mmdetection,
    )
}
UNITS = {
    "yolo5": 640,
    "corners_in_one": 640,
    "ssd": 300,
    "detr": 640,
    "sigmoid_logits": 640,
    "tensorflow": 640,
}
