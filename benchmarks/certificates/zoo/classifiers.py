"""Classifiers: with labels and without, past a softmax, few classes, unequal classes, and one that hardly learns."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.certificates.entry import Array, Arrays, Entry, entry, made
from benchmarks.certificates.losses import accuracy_lost, balanced_lost, changed
from benchmarks.certificates.synthetic import digits, tones
from benchmarks.certificates.training import Batch, exported, trained


def digit_samples(rng: np.random.Generator, samples: int) -> dict[str, Array]:
    images, classes = digits(rng, samples)
    return {"image": images, "labels": classes}


def by_class(network: nn.Module, batch: Batch) -> Tensor:
    return cross_entropy(network(batch["image"]), batch["labels"])


def convolutional(classes: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, classes),
    )


def dense(inputs: int, classes: int, width: int = 64) -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, classes)
    )


def accuracy(output: str, before: Arrays, after: Arrays, fresh: Arrays) -> dict[str, float]:
    x, y = before[output], after[output]
    return {"accuracy": accuracy_lost(x, y, fresh["labels"]), "changed": changed(x, y)}


@entry
def digits_labels() -> Entry:
    """Logits and labels."""
    network = trained(lambda: convolutional(10), digit_samples, by_class)
    model = exported(network, {"image": digit_samples(np.random.default_rng(0), 2)["image"]}, ["logits"])
    return made(
        "digits_labels",
        "classifier",
        model,
        digit_samples,
        lambda before, after, fresh: accuracy("logits", before, after, fresh),
        {"accuracy": 0.06, "changed": 0.15},
        samples=1_200,
    )


@entry
def digits_agreement() -> Entry:
    """Logits, and nobody knows the labels."""
    network = trained(lambda: dense(64, 10), digit_samples, by_class)
    model = exported(network, {"image": digit_samples(np.random.default_rng(0), 2)["image"]}, ["logits"])
    return made(
        "digits_agreement",
        "classifier",
        model,
        digit_samples,
        lambda before, after, fresh: accuracy("logits", before, after, fresh),
        {"accuracy": 0.1, "changed": 0.12},
        max_drop=0.05,
        truth=False,
    )


@entry
def digits_softmax() -> Entry:
    """Probabilities past a softmax, with labels."""
    network = trained(lambda: convolutional(10), digit_samples, by_class, steps=200, seed=3)
    model = exported(
        nn.Sequential(network, nn.Softmax(-1)),
        {"image": digit_samples(np.random.default_rng(0), 2)["image"]},
        ["probabilities"],
    )
    return made(
        "digits_softmax",
        "classifier",
        model,
        digit_samples,
        lambda before, after, fresh: accuracy("probabilities", before, after, fresh),
        {"accuracy": 0.06, "changed": 0.15},
    )


def tone_samples(rng: np.random.Generator, samples: int) -> dict[str, Array]:
    waves, classes = tones(rng, samples)
    return {"image": waves[:, None], "labels": classes}


@entry
def tones_softmax() -> Entry:
    """A convolution over time past a softmax, without labels; the exporter of torch.export."""
    network = trained(
        lambda: nn.Sequential(
            nn.Conv1d(1, 16, 15, stride=4),
            nn.ReLU(),
            nn.Conv1d(16, 32, 7, stride=2),
            nn.ReLU(),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.Linear(32, 5),
        ),
        tone_samples,
        by_class,
        steps=400,
    )
    model = exported(
        nn.Sequential(network, nn.Softmax(-1)),
        {"image": tone_samples(np.random.default_rng(0), 2)["image"]},
        ["probabilities"],
        dynamo=True,
    )
    return made(
        "tones_softmax",
        "classifier",
        model,
        tone_samples,
        lambda before, after, fresh: accuracy("probabilities", before, after, fresh),
        {"accuracy": 0.12, "changed": 0.12},
        max_drop=0.05,
        truth=False,
    )


def unequal_samples(rng: np.random.Generator, samples: int) -> dict[str, Array]:
    """Features [N, 24] of three classes, 92, 5 and 3 % of the samples."""
    classes = rng.choice(3, samples, p=[0.92, 0.05, 0.03])
    centres = np.random.default_rng(5).normal(0, 0.75, (3, 24))
    features = centres[classes] + rng.normal(0, 1, (samples, 24))
    return {"image": np.tanh(features).astype(np.float32), "labels": classes}


@entry
def unequal_classes() -> Entry:
    """Who always says the most frequent class is right in 92 %: the rare ones are what the network is for."""
    network = trained(lambda: dense(24, 3, 48), unequal_samples, by_class)
    model = exported(network, {"image": unequal_samples(np.random.default_rng(0), 2)["image"]}, ["logits"])

    def check(before: Arrays, after: Arrays, fresh: Arrays) -> dict[str, float]:
        x, y = before["logits"], after["logits"]
        return {
            "accuracy": accuracy_lost(x, y, fresh["labels"]),
            "changed": changed(x, y),
            "balanced": balanced_lost(x, y, fresh["labels"]),
        }

    broken = {"accuracy": 0.03, "changed": 0.06, "balanced": 0.3}
    return made("unequal_classes", "classifier", model, unequal_samples, check, broken, max_drop=0.01, samples=1_500)


def parity_samples(rng: np.random.Generator, samples: int) -> dict[str, Array]:
    images, classes = digits(rng, samples)
    return {"image": images, "labels": classes % 2}


@entry
def two_classes() -> Entry:
    """Odd or even."""
    network = trained(lambda: convolutional(2), parity_samples, by_class)
    model = exported(network, {"image": parity_samples(np.random.default_rng(0), 2)["image"]}, ["logits"])
    return made(
        "two_classes",
        "classifier",
        model,
        parity_samples,
        lambda before, after, fresh: accuracy("logits", before, after, fresh),
        {"accuracy": 0.06, "changed": 0.12},
    )


def noisy_samples(rng: np.random.Generator, samples: int) -> dict[str, Array]:
    """Digits of which four in five have a random label."""
    images, classes = digits(rng, samples)
    return {"image": images, "labels": np.where(rng.random(samples) < 0.8, rng.integers(0, 10, samples), classes)}


@entry
def near_chance() -> Entry:
    """Right in about 27 % by labels that are mostly random: a drop of a point is easily lost in them."""
    network = trained(lambda: dense(64, 10), noisy_samples, by_class, seed=2, steps=250)
    model = exported(network, {"image": noisy_samples(np.random.default_rng(0), 2)["image"]}, ["logits"])
    return made(
        "near_chance",
        "classifier",
        model,
        noisy_samples,
        lambda before, after, fresh: accuracy("logits", before, after, fresh),
        {"accuracy": 0.1, "changed": 0.6},
        samples=1_200,
    )


class Attentive(nn.Module):
    """A transformer encoder over the rows of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 32)
        self.place = nn.Parameter(torch.randn(8, 32) * 0.1)
        self.query, self.key, self.value, self.out = (nn.Linear(32, 32) for _ in range(4))
        self.norms = nn.ModuleList([nn.LayerNorm(32), nn.LayerNorm(32)])
        self.up, self.down, self.head = nn.Linear(32, 64), nn.Linear(64, 32), nn.Linear(32, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = self.embed(image.squeeze(1)) + self.place
        y = self.norms[0](x)
        weights = torch.softmax(self.query(y) @ self.key(y).transpose(1, 2) / 32**0.5, -1)
        x = x + self.out(weights @ self.value(y))
        x = x + self.down(torch.nn.functional.gelu(self.up(self.norms[1](x))))
        logits: Tensor = self.head(x.mean(1))
        return logits


@entry
def transformer() -> Entry:
    """A small transformer with labels; the exporter of torch.export."""
    network = trained(Attentive, digit_samples, by_class, steps=1000, rate=8e-3)
    example = {"image": digit_samples(np.random.default_rng(0), 2)["image"]}
    model = exported(network, example, ["logits"], dynamo=True)
    return made(
        "transformer",
        "classifier",
        model,
        digit_samples,
        lambda before, after, fresh: accuracy("logits", before, after, fresh),
        {"accuracy": 0.06, "changed": 0.15},
    )


def silent_samples(rng: np.random.Generator, samples: int) -> dict[str, Array]:
    waves, classes = tones(rng, samples, silent=0.15)
    return {"image": waves, "labels": classes}


class LogMel(nn.Module):
    """Frames, Fourier transform as a product, mel bands, and log(x + 1e-10): digital silence needs the epsilon."""

    real: Tensor
    imaginary: Tensor
    bands: Tensor

    def __init__(self) -> None:
        super().__init__()
        time, frequency = np.arange(64), np.arange(33)[:, None]
        waves = np.exp(-2j * np.pi * frequency * time / 64) * np.hanning(64)
        self.register_buffer("real", torch.tensor(waves.real[:, None], dtype=torch.float32))
        self.register_buffer("imaginary", torch.tensor(waves.imag[:, None], dtype=torch.float32))
        edges = np.linspace(0, 33, 18)
        bands = np.maximum(0, 1 - np.abs(np.arange(33)[None] - edges[1:-1, None]) / (edges[1] - edges[0]))
        self.register_buffer("bands", torch.tensor(bands, dtype=torch.float32))
        self.classify = nn.Sequential(
            nn.Conv1d(16, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(32, 6)
        )

    def forward(self, image: Tensor) -> Tensor:
        frames = image.unsqueeze(1)
        real = nn.functional.conv1d(frames, self.real, stride=32)
        imaginary = nn.functional.conv1d(frames, self.imaginary, stride=32)
        logs = torch.log(torch.matmul(self.bands, real**2 + imaginary**2) + 1e-10)
        logits: Tensor = self.classify(logs / 10 + 0.5)
        return logits


@entry
def log_mel() -> Entry:
    """A spoken-word front end: the epsilon in its logarithm stands between silence and infinity."""
    network = trained(LogMel, silent_samples, by_class, steps=400)
    model = exported(network, {"image": silent_samples(np.random.default_rng(0), 2)["image"]}, ["logits"])
    return made(
        "log_mel",
        "front end",
        model,
        silent_samples,
        lambda before, after, fresh: accuracy("logits", before, after, fresh),
        {"accuracy": 0.06, "changed": 0.2},
    )
