"""Detectors: with boxes and scores in one output or in two, before and after the suppression of double boxes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from benchmarks.certificates.training import exported
from benchmarks.networks.entry import Array, Network, made, network
from benchmarks.networks.random_weights import first, lively
from benchmarks.networks.written import weights, written
from benchmarks.networks.zoo.vision import images

CELLS, STRIDE = 6, 4
RARE = -2.0
"""What is added to the scores: few anchors see something."""


class Yolo(nn.Module):
    """Boxes in pixels and scores of four classes in one output [N, 4 + 4, anchors]."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.SiLU(), nn.Conv2d(12, 16, 3, 2, 1), nn.SiLU()
        )
        self.box, self.score = nn.Conv2d(16, 4, 1), nn.Conv2d(16, 4, 1)
        ys, xs = np.meshgrid(np.arange(CELLS), np.arange(CELLS), indexing="ij")
        self.register_buffer("cells", torch.from_numpy(np.stack([xs, ys]).reshape(1, 2, -1).astype(np.float32)))

    def forward(self, images: Tensor) -> Tensor:
        x = self.body(images)
        box, score = self.box(x).flatten(2), self.score(x).flatten(2)
        centre = (torch.sigmoid(box[:, :2]) + self.cells) * STRIDE
        size = torch.exp(box[:, 2:].clamp(max=3)) * STRIDE
        return torch.cat([centre, size, torch.sigmoid(score + RARE)], 1)


@network("detector, one output, YOLO")
def yolo() -> Network:
    draw = images(24, name="images")
    model = exported(lively(Yolo, *first(draw, 32).values()), first(draw), ["output0"])
    return made(model, draw)


class Ssd(nn.Module):
    """Boxes in [0, 1] and probabilities with a background, in two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 12, 3, 2, 1), nn.ReLU6(), nn.Conv2d(12, 16, 3, 2, 1), nn.ReLU6())
        self.box, self.score = nn.Conv2d(16, 4, 1), nn.Conv2d(16, 4, 1)
        ys, xs = np.meshgrid(np.arange(CELLS) + 0.5, np.arange(CELLS) + 0.5, indexing="ij")
        self.register_buffer("centres", torch.from_numpy(np.stack([xs, ys], -1).reshape(1, -1, 2).astype("f") / CELLS))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x = self.body(image)
        box = self.box(x).permute(0, 2, 3, 1).flatten(1, 2)
        score = self.score(x).permute(0, 2, 3, 1).flatten(1, 2)
        centre, size = self.centres + 0.1 * torch.tanh(box[..., :2]), 0.3 * torch.sigmoid(box[..., 2:])
        boxes = torch.cat([centre - size / 2, centre + size / 2], -1)
        return boxes, torch.softmax(score + torch.tensor([2.0, 0, 0, 0]), -1)


@network("detector, boxes and scores apart, new exporter")
def ssd() -> Network:
    draw = images(24)
    model = exported(lively(Ssd), first(draw), ["boxes", "scores"], dynamo=True)
    return made(model, draw)


@network("detector with suppression of double boxes")
def suppressed() -> Network:
    """Batch of one, as such files have it; the number of boxes follows from the image."""
    text = """(float[1, 3, 24, 24] image) => (float[found, 4] boxes, float[found] scores, int64[found] classes) {
        a = Conv<strides = [2, 2], pads = [1, 1, 1, 1]>(image, w1)
        ar = Relu(a)
        c = Conv<strides = [2, 2], pads = [1, 1, 1, 1]>(ar, w2)
        cr = Relu(c)
        b4 = Conv(cr, wb)
        s4 = Conv(cr, ws, bs)
        bf = Reshape(b4, four)
        bt = Transpose<perm = [0, 2, 1]>(bf)
        sf = Reshape(s4, three)
        all_scores = Sigmoid(sf)
        moved = Tanh(bt)
        scaled = Mul(moved, tenth)
        all_boxes = Add(scaled, anchors)
        picked = NonMaxSuppression(all_boxes, all_scores, most, overlap, least)
        class_column = Gather<axis = 1>(picked, one)
        classes = Identity(class_column)
        box_column = Gather<axis = 1>(picked, two)
        flat_boxes = Squeeze(all_boxes, zero_list)
        boxes = Gather(flat_boxes, box_column)
        places = Slice(picked, one_list, three_list, one_list)
        flat_scores = Squeeze(all_scores, zero_list)
        scores = GatherND(flat_scores, places)
    }"""
    ys, xs = np.meshgrid(np.arange(CELLS), np.arange(CELLS), indexing="ij")
    low = np.stack([ys, xs], -1).reshape(1, -1, 2) / CELLS
    constants = weights(
        1, w1=(12, 3, 3, 3), w2=(16, 12, 3, 3), wb=(4, 16, 1, 1), ws=(3, 16, 1, 1), bs=np.full(3, RARE, "f"),
        four=np.array([0, 4, -1]), three=np.array([0, 3, -1]), tenth=np.float32(0.03),
        anchors=np.concatenate([low, low + 0.25], -1).astype("f"), most=np.array([5]), overlap=np.array([0.5], "f"),
        least=np.array([0.3], "f"), one=np.int64(1), two=np.int64(2), zero_list=np.array([0]), one_list=np.array([1]),
        three_list=np.array([3]),
    )  # fmt: skip
    axes = {"boxes": None, "scores": None, "classes": None}
    return made(written(text, constants), images(24), batch_axes=axes, samples=200)


@network("second stage of a detector, RoiAlign")
def roi_align() -> Network:
    """Regions that the caller gives, of one image."""
    text = """(float[1, 3, 16, 16] image, float[regions, 4] regions) => (float[regions, 5] scores) {
        a = Conv<pads = [1, 1, 1, 1]>(image, w1)
        ar = Relu(a)
        numbers = Shape(regions)
        count = Gather(numbers, zero)
        count_list = Unsqueeze(count, zero_list)
        which = ConstantOfShape<value = int64[1] {0}>(count_list)
        r = RoiAlign<output_height = 3, output_width = 3, sampling_ratio = 2, spatial_scale = 1.0>(ar, regions, which)
        f = Flatten(r)
        logits = Gemm<transB = 1>(f, w2, b2)
        scores = Softmax<axis = -1>(logits)
    }"""

    def draw(rng: np.random.Generator, n: int) -> dict[str, Array]:
        corner = rng.uniform(0, 8, (n, 4, 2))
        regions = np.concatenate([corner, corner + rng.uniform(3, 8, (n, 4, 2))], -1).astype(np.float32)
        return {**images(16)(rng, n), "regions": regions}

    constants = weights(2, w1=(12, 3, 3, 3), w2=(5, 108), b2=(5,), zero=np.int64(0), zero_list=np.array([0]))
    constants["w2"] = constants["w2"] * np.float32(0.3)
    return made(written(text, constants, opset=16), draw, batch_axes={"regions": None, "scores": None})


@network("best three classes, TopK")
def best_three() -> Network:
    text = """(float[1, 24] x) => (float[1, 3] scores, int64[1, 3] classes) {
        a = MatMul(x, w1)
        ar = Relu(a)
        l = MatMul(ar, w2)
        p = Softmax<axis = -1>(l)
        scores, classes = TopK<axis = -1>(p, k)
    }"""

    def draw(rng: np.random.Generator, n: int) -> dict[str, Array]:
        return {"x": rng.normal(size=(n, 24)).astype(np.float32)}

    return made(written(text, weights(3, w1=(24, 40), w2=(40, 9), k=np.array([3]))), draw, max_drop=0.05)


class Heads(nn.Module):
    """Three scales of one feature pyramid, raw: six outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(nn.Conv2d(i, o, 3, 2, 1) for i, o in ((3, 8), (8, 12), (12, 16)))
        self.boxes = nn.ModuleList(nn.Conv2d(i, 4, 1) for i in (8, 12, 16))
        self.scores = nn.ModuleList(nn.Conv2d(i, 2, 1) for i in (8, 12, 16))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        x, outputs = image, []
        for stage, box, score in zip(self.stages, self.boxes, self.scores, strict=True):
            x = silu(stage(x))
            outputs += [box(x), torch.sigmoid(score(x))]
        return tuple(outputs)


@network("detector, raw outputs of three scales")
def pyramid() -> Network:
    draw = images(16)
    names = [f"{kind}_{scale}" for scale in (2, 4, 8) for kind in ("offsets", "scores")]
    return made(exported(lively(Heads), first(draw), names, opset=12), draw)
