"""Detectors of squares and discs: one output or several, before and after non-maximum suppression."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, l1_loss

from benchmarks.certificates.detections import Detections, f1, from_classes, missed, selected
from benchmarks.certificates.entry import Array, Arrays, Entry, entry, made
from benchmarks.certificates.losses import unexplained
from benchmarks.certificates.synthetic import IMAGE, shapes
from benchmarks.certificates.training import Batch, exported, trained

CELLS = 6
STRIDE = IMAGE // CELLS
ANCHOR = 8.0


def image_samples(rng: np.random.Generator, samples: int) -> dict[str, Array]:
    return {"images": shapes(rng, samples)[0]}


def truth_samples(rng: np.random.Generator, samples: int) -> dict[str, Array]:
    images, boxes, classes, _ = shapes(rng, samples)
    return {"images": images, "boxes": boxes, "labels": classes}


def cell_samples(rng: np.random.Generator, samples: int) -> dict[str, Array]:
    """For training: the box (centre and size, pixels) and class of each cell, class -1 where there is no centre."""
    images, boxes, classes, _ = shapes(rng, samples)
    cell_boxes = np.zeros((samples, CELLS * CELLS, 4), np.float32)
    cell_classes = np.full((samples, CELLS * CELLS), -1)
    centre, size = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
    cells = np.clip(centre // STRIDE, 0, CELLS - 1).astype(int)
    for index in range(2):
        rows = np.flatnonzero(classes[:, index] >= 0)
        cell = cells[rows, index, 1] * CELLS + cells[rows, index, 0]
        cell_boxes[rows, cell] = np.concatenate([centre[rows, index], size[rows, index]], -1)
        cell_classes[rows, cell] = classes[rows, index]
    return {"images": images, "cell_boxes": cell_boxes, "cell_classes": cell_classes}


class Cells(nn.Module):
    """Raw outputs of every cell: offsets [N, 4, 36] and class logits [N, classes, 36]."""

    grid: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1, stride=2),
            nn.ReLU(),
            nn.Conv2d(8, 20, 3, padding=1, stride=2),
            nn.BatchNorm2d(20),
            nn.ReLU(),
            nn.Conv2d(20, 20, 3, padding=1),
            nn.BatchNorm2d(20),
            nn.ReLU(),
            nn.Conv2d(20, 20, 3, padding=1),
            nn.ReLU(),
        )
        self.offsets, self.classes = nn.Conv2d(20, 4, 1), nn.Conv2d(20, classes, 1)
        rows, columns = np.mgrid[:CELLS, :CELLS]
        grid = np.stack([columns, rows]).reshape(1, 2, -1) + 0.5
        self.register_buffer("grid", torch.tensor(grid, dtype=torch.float32))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.body(images)
        return self.offsets(x).flatten(2), self.classes(x).flatten(2)

    def pixels(self, offsets: Tensor) -> Tensor:
        """Centre and size in pixels, [N, 4, 36]."""
        centre = (self.grid + offsets[:, :2]) * STRIDE
        return torch.cat([centre, torch.exp(offsets[:, 2:]) * ANCHOR], 1)


def corners(boxes: Tensor) -> Tensor:
    """[N, 4, A] centre and size to [N, A, 4] corners."""
    centre, half = boxes[:, :2], boxes[:, 2:] / 2
    return torch.cat([centre - half, centre + half], 1).transpose(1, 2)


def detection_loss(network: nn.Module, batch: Batch) -> Tensor:
    assert isinstance(network, Cells)
    offsets, logits = network(batch["images"])
    real = batch["cell_classes"] >= 0
    boxes = network.pixels(offsets).transpose(1, 2)
    place = l1_loss(boxes[real], batch["cell_boxes"][real])
    classes = logits.shape[1]
    if classes == 3:  # the last is the background
        wanted = torch.where(real, batch["cell_classes"], 2)
        return cross_entropy(logits, wanted, torch.tensor([4.0, 4.0, 1.0])) + 0.5 * place
    wanted = torch.stack([batch["cell_classes"] == kind for kind in range(2)], 1).float()
    if classes == 1:
        wanted = wanted[:, 1:]
    return 3 * binary_cross_entropy_with_logits(logits, wanted, pos_weight=torch.tensor(4.0)) + 0.5 * place


@cache
def detector(classes: int) -> Cells:
    network = trained(lambda: Cells(classes), cell_samples, detection_loss, steps=700, seed=classes, rate=6e-3)
    assert isinstance(network, Cells)
    return network


def example() -> dict[str, Array]:
    return image_samples(np.random.default_rng(0), 2)


def against_float(before: list[Detections], after: list[Detections]) -> dict[str, float]:
    return {"detections": missed(before, after)}


class OneTensor(nn.Module):
    """As YOLO gives it: [N, 4 + classes, cells], pixels beside probabilities."""

    def __init__(self, cells: Cells) -> None:
        super().__init__()
        self.cells = cells

    def forward(self, images: Tensor) -> Tensor:
        offsets, logits = self.cells(images)
        return torch.cat([self.cells.pixels(offsets), torch.sigmoid(logits)], 1)


def of_one_tensor(output: Array) -> list[Detections]:
    x = output.transpose(0, 2, 1).astype(np.float64)
    half = x[..., 2:4] / 2
    return from_classes(np.concatenate([x[..., :2] - half, x[..., :2] + half], -1), x[..., 4:])


@entry
def yolo() -> Entry:
    """Boxes in pixels and class scores in one output, no truth."""
    model = exported(OneTensor(detector(2)), example(), ["output0"])

    def check(before: Arrays, after: Arrays, _: Arrays) -> dict[str, float]:
        x, y = before["output0"], after["output0"]
        return {**against_float(of_one_tensor(x), of_one_tensor(y)), "unexplained": unexplained(x, y, 1)}

    broken = {"detections": 0.15, "unexplained": 0.1}
    return made("yolo", "detector, one output", model, image_samples, check, broken, samples=600)


@entry
def yolo_truth() -> Entry:
    """The same with the true boxes and classes."""
    model = exported(OneTensor(detector(2)), example(), ["output0"], dynamo=True)

    def check(before: Arrays, after: Arrays, fresh: Arrays) -> dict[str, float]:
        x, y = of_one_tensor(before["output0"]), of_one_tensor(after["output0"])
        boxes, labels = list(fresh["boxes"]), list(fresh["labels"])
        return {"true_detections": f1(x, boxes, labels) - f1(y, boxes, labels), "same_detections": missed(x, y)}

    broken = {"true_detections": 0.1, "same_detections": 0.25}
    return made("yolo_truth", "detector, one output", model, truth_samples, check, broken, samples=600, max_drop=0.03)


class BoxesAndClasses(nn.Module):
    """As SSD gives it: boxes in shares of the image [N, 36, 4], a softmax with background [N, 36, 3]."""

    def __init__(self, cells: Cells) -> None:
        super().__init__()
        self.cells = cells

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        offsets, logits = self.cells(images)
        return corners(self.cells.pixels(offsets)) / IMAGE, torch.softmax(logits, 1).transpose(1, 2)


@entry
def ssd() -> Entry:
    """Boxes and classes with background, in two outputs before suppression."""
    model = exported(BoxesAndClasses(detector(3)), example(), ["boxes", "scores"])

    def read(outputs: Arrays) -> list[Detections]:
        return from_classes(outputs["boxes"], outputs["scores"][..., :2])

    def check(before: Arrays, after: Arrays, _: Arrays) -> dict[str, float]:
        shares = [unexplained(before[name], after[name], -1) for name in ("boxes", "scores")]
        return {**against_float(read(before), read(after)), "unexplained": max(shares)}

    broken = {"detections": 0.15, "unexplained": 0.1}
    return made("ssd", "detector, several outputs", model, image_samples, check, broken, samples=600)


class FaceLike(nn.Module):
    """As small face detectors give it: scores [N, 36, 1] first, offsets from anchors [N, 36, 4]."""

    def __init__(self, cells: Cells) -> None:
        super().__init__()
        self.cells = cells

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        offsets, logits = self.cells(images)
        return torch.sigmoid(logits).transpose(1, 2), offsets.transpose(1, 2)


@entry
def face() -> Entry:
    """One class (discs): scores in the first output, offsets in the second, which default metrics overlooked."""
    model = exported(FaceLike(detector(1)), example(), ["scores", "offsets"])
    rows, columns = np.mgrid[:CELLS, :CELLS]
    grid = np.stack([columns, rows], -1).reshape(-1, 2) + 0.5

    def read(outputs: Arrays) -> list[Detections]:
        offsets = outputs["offsets"].astype(np.float64)
        centre, half = (grid + offsets[..., :2]) * STRIDE, np.exp(np.minimum(offsets[..., 2:], 20)) * ANCHOR / 2
        return from_classes(np.concatenate([centre - half, centre + half], -1), outputs["scores"])

    def check(before: Arrays, after: Arrays, _: Arrays) -> dict[str, float]:
        shares = [unexplained(before[name], after[name], -1) for name in ("scores", "offsets")]
        return {**against_float(read(before), read(after)), "unexplained": max(shares)}

    broken = {"detections": 0.15, "unexplained": 0.1}
    return made("face", "detector, several outputs", model, image_samples, check, broken, samples=600)


class BestFew(nn.Module):
    """After selection: the eight best cells, sorted; boxes [N, 8, 4], scores [N, 8], labels [N, 8] (int64)."""

    def __init__(self, cells: Cells) -> None:
        super().__init__()
        self.cells = cells

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        offsets, logits = self.cells(images)
        best, classes = torch.sigmoid(logits).max(1)
        scores, order = best.topk(8)
        boxes = corners(self.cells.pixels(offsets)).gather(1, order.unsqueeze(-1).expand(-1, -1, 4))
        return boxes, scores, classes.gather(1, order)


@entry
def detector_topk() -> Entry:
    """Scores come sorted: compared place by place, they look alike when all boxes are others."""
    model = exported(BestFew(detector(2)), example(), ["boxes", "scores", "classes"])

    def read(outputs: Arrays) -> list[Detections]:
        triples = zip(outputs["boxes"], outputs["scores"], outputs["classes"], strict=True)
        return [selected(np.nan_to_num(b.astype(np.float64)), s, c) for b, s, c in triples]

    def check(before: Arrays, after: Arrays, _: Arrays) -> dict[str, float]:
        return against_float(read(before), read(after))

    return made(
        "detector_topk",
        "detector, selected",
        model,
        image_samples,
        check,
        {"detections": 0.15},
        samples=600,
        max_drop=0.05,
    )


def with_suppression(model: bytes) -> bytes:
    """One image to what NonMaxSuppression leaves of it: boxes [M, 4], scores [M], classes [M]."""
    proto = onnx.load_from_string(model)
    graph = proto.graph
    constants: dict[str, Array] = {
        "nms_most": np.array(8, np.int64),
        "nms_iou": np.array(0.45, np.float32),
        "nms_score": np.array(0.25, np.float32),
        "nms_class": np.array([1], np.int64),
        "nms_box": np.array([2], np.int64),
        "nms_pair": np.array([1, 2], np.int64),
        "nms_last": np.array([1], np.int64),
        "nms_first": np.array([0], np.int64),
    }
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    node = helper.make_node
    graph.node.extend(
        [
            node("Transpose", ["all_scores"], ["nms_scores"], perm=[0, 2, 1]),
            node("NonMaxSuppression", ["all_boxes", "nms_scores", "nms_most", "nms_iou", "nms_score"], ["nms_found"]),
            node("Gather", ["nms_found", "nms_box"], ["nms_rows"], axis=1),
            node("Squeeze", ["nms_rows", "nms_last"], ["nms_row"]),
            node("Gather", ["nms_found", "nms_class"], ["nms_classes"], axis=1),
            node("Squeeze", ["nms_classes", "nms_last"], ["classes"]),
            node("Squeeze", ["all_boxes", "nms_first"], ["nms_boxes"]),
            node("Gather", ["nms_boxes", "nms_row"], ["boxes"], axis=0),
            node("Squeeze", ["nms_scores", "nms_first"], ["nms_table"]),
            node("Gather", ["nms_found", "nms_pair"], ["nms_pairs"], axis=1),
            node("GatherND", ["nms_table", "nms_pairs"], ["scores"]),
        ]
    )
    del graph.output[:]
    value = helper.make_tensor_value_info
    graph.output.extend(
        [
            value("boxes", TensorProto.FLOAT, ["found", 4]),
            value("scores", TensorProto.FLOAT, ["found"]),
            value("classes", TensorProto.INT64, ["found"]),
        ]
    )
    onnx.checker.check_model(proto)
    contents: bytes = proto.SerializeToString()
    return contents


class BoxesAndScores(nn.Module):
    def __init__(self, cells: Cells) -> None:
        super().__init__()
        self.cells = cells

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        offsets, logits = self.cells(images)
        return corners(self.cells.pixels(offsets)), torch.sigmoid(logits).transpose(1, 2)


@entry
def detector_nms() -> Entry:
    """After NonMaxSuppression: one image at a time, and as many rows as there are detections."""
    one = {name: array[:1] for name, array in example().items()}
    model = with_suppression(exported(BoxesAndScores(detector(2)), one, ["all_boxes", "all_scores"], fixed_batch=True))

    def read(outputs: Arrays) -> list[Detections]:
        triples = zip(outputs["boxes"], outputs["scores"], outputs["classes"], strict=True)
        return [selected(b.reshape(-1, 4).astype(np.float64), s, c) for b, s, c in triples]

    def check(before: Arrays, after: Arrays, _: Arrays) -> dict[str, float]:
        return against_float(read(before), read(after))

    return made(
        "detector_nms",
        "detector, selected",
        model,
        image_samples,
        check,
        {"detections": 0.15},
        samples=500,
        max_drop=0.05,
    )
