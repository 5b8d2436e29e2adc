"""One answer for each position: taggers, segmenters, reading by CTC."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, ctc_loss

from benchmarks.certificates.entry import Array, Arrays, Entry, entry, made
from benchmarks.certificates.losses import (
    accuracy_lost,
    changed,
    chosen,
    flips,
    greedy_text,
    mean_iou,
    token_errors,
    unexplained,
)
from benchmarks.certificates.synthetic import TOKENS, shapes
from benchmarks.certificates.training import Batch, exported, trained

LENGTH = 12
TAGS = 5
PAD = 0


def tag_samples(rng: np.random.Generator, samples: int) -> dict[str, Array]:
    """Tokens [N, 12], padded with 0 behind; the tag of each follows from it and its left neighbour; padding: -1."""
    tokens = rng.integers(1, TOKENS, (samples, LENGTH))
    table = np.random.default_rng(3).integers(0, TAGS, (TOKENS, 3))
    before = np.concatenate([np.zeros((samples, 1), int), tokens[:, :-1]], 1)
    tags = table[tokens, before % 3]
    wrong = rng.random(tags.shape) < 0.05
    tags = np.where(wrong, rng.integers(0, TAGS, tags.shape), tags)
    beyond = np.arange(LENGTH) >= rng.integers(6, LENGTH + 1, (samples, 1))
    return {"tokens": np.where(beyond, PAD, tokens), "labels": np.where(beyond, -1, tags)}


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(TOKENS, 24)
        self.recur = nn.GRU(24, 32, batch_first=True, bidirectional=True)
        self.head = nn.Linear(64, TAGS)

    def forward(self, tokens: Tensor) -> Tensor:
        tags: Tensor = self.head(self.recur(self.embed(tokens))[0])
        return tags


class ConvolutionalTagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(TOKENS, 24)
        self.left, self.right, self.head = nn.Conv1d(24, 48, 3, padding=1), nn.Conv1d(48, 48, 1), nn.Linear(48, TAGS)

    def forward(self, tokens: Tensor) -> Tensor:
        x = torch.relu(self.left(self.embed(tokens).transpose(1, 2)))
        tags: Tensor = self.head(torch.relu(self.right(x)).transpose(1, 2))
        return tags


def by_tag(network: nn.Module, batch: Batch) -> Tensor:
    return cross_entropy(network(batch["tokens"]).transpose(1, 2), batch["labels"], ignore_index=-1)


def tag_check(before: Arrays, after: Arrays, fresh: Arrays) -> dict[str, float]:
    x, y, labels = before["tags"], after["tags"], fresh["labels"]
    real = labels >= 0
    return {"accuracy": accuracy_lost(x, y, labels), "changed": changed(x[real], y[real])}


def tag_example() -> dict[str, Array]:
    return {"tokens": tag_samples(np.random.default_rng(0), 2)["tokens"]}


@entry
def tagger() -> Entry:
    """A tag for each token with labels; positions past the end are ignored."""
    model = exported(trained(Tagger, tag_samples, by_tag, steps=400), tag_example(), ["tags"])
    return made("tagger", "tagger", model, tag_samples, tag_check, {"accuracy": 0.06, "changed": 0.12})


@entry
def tagger_unlabelled() -> Entry:
    """The same task by convolutions, and nobody knows the tags."""
    model = exported(trained(ConvolutionalTagger, tag_samples, by_tag), tag_example(), ["tags"])
    broken = {"accuracy": 0.1, "changed": 0.12}
    return made("tagger_unlabelled", "tagger", model, tag_samples, tag_check, broken, max_drop=0.05, truth=False)


class Segmenter(nn.Module):
    """Down, up and a bridge: [N, classes, 24, 24]."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU())
        self.down = nn.Sequential(
            nn.Conv2d(12, 24, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(24, 24, 3, padding=2, dilation=2), nn.ReLU()
        )
        self.up = nn.ConvTranspose2d(24, 12, 2, stride=2)
        self.head = nn.Conv2d(24, classes, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.inner(images)
        logits: Tensor = self.head(torch.cat([x, torch.relu(self.up(self.down(x)))], 1))
        return logits


def mask_samples(rng: np.random.Generator, samples: int) -> dict[str, Array]:
    images, _, _, mask = shapes(rng, samples)
    return {"images": images, "labels": mask}


def mask_example() -> dict[str, Array]:
    return {"images": mask_samples(np.random.default_rng(0), 2)["images"]}


@entry
def segmenter() -> Entry:
    """Classes on the second axis, a label for each pixel."""
    network = trained(
        lambda: Segmenter(3),
        mask_samples,
        lambda network, batch: cross_entropy(network(batch["images"]), batch["labels"]),
        steps=250,
        batch=32,
        rate=8e-3,
    )

    def check(before: Arrays, after: Arrays, fresh: Arrays) -> dict[str, float]:
        x, y = chosen(before["logits"], 1), chosen(after["logits"], 1)
        return {
            "miou": mean_iou(x, fresh["labels"], 3) - mean_iou(y, fresh["labels"], 3),
            "pixels": float((x == fresh["labels"]).mean() - (y == fresh["labels"]).mean()),
            "miou_float": 1 - mean_iou(y, x, 3),
        }

    model = exported(network, mask_example(), ["logits"])
    broken = {"miou": 0.08, "pixels": 0.05, "miou_float": 0.25}
    return made("segmenter", "segmenter", model, mask_samples, check, broken, samples=400, max_drop=0.03)


@entry
def foreground() -> Entry:
    """One channel of probabilities: object or background, without labels."""
    network = trained(
        lambda: Segmenter(1),
        mask_samples,
        lambda network, batch: binary_cross_entropy_with_logits(
            network(batch["images"]), (batch["labels"] > 0).float()[:, None]
        ),
        steps=120,
        batch=32,
        rate=8e-3,
        seed=1,
    )

    def check(before: Arrays, after: Arrays, _: Arrays) -> dict[str, float]:
        x, y = before["mask"], after["mask"]
        both, either = ((x > 0.5) & (y > 0.5)).sum(), ((x > 0.5) | (y > 0.5)).sum()
        return {"flips": flips(x, y), "mask": float(1 - both / max(1, either)), "unexplained": unexplained(x, y)}

    model = exported(nn.Sequential(network, nn.Sigmoid()), mask_example(), ["mask"])
    broken = {"flips": 0.05, "mask": 0.15, "unexplained": 0.15}
    return made("foreground", "segmenter", model, mask_samples, check, broken, samples=400, truth=False)


WIDTH, HEIGHT, LETTERS, SYMBOLS = 40, 8, 5, 6


def line_samples(rng: np.random.Generator, samples: int) -> dict[str, Array]:
    """Lines [N, 8, 40] of three to five glyphs at loose places; `labels` [N, 5] 1 to 6, behind the end -1."""
    glyphs = (np.random.default_rng(9).random((SYMBOLS, HEIGHT, 5)) < 0.5).astype(float)
    letters = rng.integers(0, SYMBOLS, (samples, LETTERS))
    lengths = rng.integers(3, LETTERS + 1, samples)
    images = rng.normal(0, 0.25, (samples, HEIGHT, WIDTH))
    for index in range(LETTERS):
        start = index * 8 + rng.integers(0, 4, samples)
        rows = np.flatnonzero(index < lengths)
        columns = start[rows, None] + np.arange(5)
        images[rows[:, None, None], np.arange(HEIGHT)[:, None], columns[:, None]] += glyphs[letters[rows, index]]
    beyond = np.arange(LETTERS) >= lengths[:, None]
    return {"line": images.astype(np.float32), "labels": np.where(beyond, -1, letters + 1)}


class Reader(nn.Module):
    """[N, 8, 40] to log-probabilities [N, 20, 7]; class 0 is the blank."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(HEIGHT, 48, 5, padding=2), nn.Conv1d(48, 48, 5, stride=2, padding=2)
        self.recur = nn.LSTM(48, 24, batch_first=True, bidirectional=True)
        self.head = nn.Linear(48, SYMBOLS + 1)

    def forward(self, line: Tensor) -> Tensor:
        x = torch.relu(self.second(torch.relu(self.first(line)))).transpose(1, 2)
        return torch.log_softmax(self.head(self.recur(x)[0]), -1)


@entry
def ctc() -> Entry:
    """Reading a line of glyphs: what counts is the text after blanks and repetitions are dropped."""

    def loss(network: nn.Module, batch: Batch) -> Tensor:
        scores, labels = network(batch["line"]).transpose(0, 1), batch["labels"]
        lengths = torch.full((scores.shape[1],), len(scores))
        return ctc_loss(scores, labels.clamp(min=0), lengths, (labels >= 0).sum(1), zero_infinity=True)

    network = trained(Reader, line_samples, loss, steps=500, rate=6e-3)

    def check(before: Arrays, after: Arrays, fresh: Arrays) -> dict[str, float]:
        x, y = greedy_text(before["scores"]), greedy_text(after["scores"])
        truth = [row[row >= 0].tolist() for row in fresh["labels"]]
        return {
            "ctc": token_errors(y, truth) - token_errors(x, truth),
            "ctc_float": token_errors(y, x),
            "changed": changed(before["scores"], after["scores"]),
        }

    model = exported(network, {"line": line_samples(np.random.default_rng(0), 2)["line"]}, ["scores"])
    broken = {"ctc": 0.1, "ctc_float": 0.1, "changed": 0.1}
    return made("ctc", "ctc", model, line_samples, check, broken, samples=500, truth=False)
