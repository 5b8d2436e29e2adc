"""Unusual ends: embeddings, sorted scores, integers, two heads."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss, normalize

from benchmarks.certificates.entry import Array, Arrays, Entry, entry, made
from benchmarks.certificates.losses import accuracy_lost, changed, neighbours_lost, unexplained
from benchmarks.certificates.synthetic import digits
from benchmarks.certificates.training import Batch, exported, trained
from benchmarks.certificates.zoo.classifiers import by_class, convolutional, dense, digit_samples


def example() -> dict[str, Array]:
    return {"image": digit_samples(np.random.default_rng(0), 2)["image"]}


class Embedding(nn.Module):
    """Digits to unit vectors [N, 16]; trained with a softmax over cosines to class centres."""

    def __init__(self) -> None:
        super().__init__()
        self.body = convolutional(16)
        self.centres = nn.Parameter(torch.randn(10, 16))

    def forward(self, image: Tensor) -> Tensor:
        return normalize(self.body(image), dim=-1)


@entry
def embedding() -> Entry:
    """Metric learning: what counts is who is next to whom."""

    def loss(network: nn.Module, batch: Batch) -> Tensor:
        assert isinstance(network, Embedding)
        cosines = network(batch["image"]) @ normalize(network.centres, dim=-1).T
        return cross_entropy(10 * cosines, batch["labels"])

    model = exported(trained(Embedding, digit_samples, loss), example(), ["embedding"])

    def check(before: Arrays, after: Arrays, _: Arrays) -> dict[str, float]:
        x, y = before["embedding"], after["embedding"]
        cosines = (x * y).sum(-1) / np.maximum(np.linalg.norm(y, axis=-1), 1e-9)
        return {
            "neighbours": neighbours_lost(x, y),
            "cosine": float(1 - np.nan_to_num(cosines, nan=-1).mean()),
            "unexplained": unexplained(x, y),
        }

    broken = {"neighbours": 0.25, "cosine": 0.05, "unexplained": 0.1}
    return made("embedding", "embedding", model, digit_samples, check, broken, truth=False)


class Sorted(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        scores, classes = torch.softmax(self.network(image), -1).topk(3)
        return scores, classes


@entry
def topk() -> Entry:
    """The three best classes, sorted: scores in the first output, which class they are of in the second."""
    network = Sorted(trained(lambda: dense(64, 10), digit_samples, by_class, seed=7))
    model = exported(network, example(), ["scores", "classes"])

    def check(before: Arrays, after: Arrays, fresh: Arrays) -> dict[str, float]:
        x, y = before["classes"][:, 0], after["classes"][:, 0]
        truth = fresh["labels"]
        return {"changed": float((x != y).mean()), "accuracy": float((x == truth).mean() - (y == truth).mean())}

    return made(
        "topk", "sorted", model, digit_samples, check, {"changed": 0.15, "accuracy": 0.1}, max_drop=0.05, truth=False
    )


class Decided(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.network(image)
        return logits.argmax(-1)


@entry
def argmax() -> Entry:
    """Integers alone come out."""
    network = Decided(trained(lambda: dense(64, 10), digit_samples, by_class, seed=8))
    model = exported(network, example(), ["class"])

    def check(before: Arrays, after: Arrays, fresh: Arrays) -> dict[str, float]:
        x, y, truth = before["class"], after["class"], fresh["labels"]
        return {"changed": float((x != y).mean()), "accuracy": float((x == truth).mean() - (y == truth).mean())}

    return made(
        "argmax",
        "integers",
        model,
        digit_samples,
        check,
        {"changed": 0.15, "accuracy": 0.1},
        max_drop=0.05,
        truth=False,
    )


def turned_samples(rng: np.random.Generator, samples: int) -> dict[str, Array]:
    """Digits with their class, and the ink and the two centres of mass of the image."""
    images, classes = digits(rng, samples)
    ink = np.maximum(images[:, 0], 0)
    rows, columns = np.mgrid[:8, :8]
    total = ink.sum((1, 2))
    place = np.stack([total, *((ink * g).sum((1, 2)) / total for g in (rows, columns))], -1)
    return {"image": images, "labels.class": classes, "targets.place": place.astype(np.float32)}


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = convolutional(48)
        self.classes, self.place = nn.Linear(48, 10), nn.Linear(48, 3)
        self.register_buffer("scale", torch.tensor([5.0, 0.4, 0.4]))
        self.register_buffer("offset", torch.tensor([19.0, 3.5, 3.5]))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.relu(self.body(image))
        return self.classes(x), self.place(x) * self.scale + self.offset


def two_headed_model(seed: int) -> bytes:
    def loss(network: nn.Module, batch: Batch) -> Tensor:
        classes, place = network(batch["image"])
        scale = torch.tensor([5.0, 0.4, 0.4])
        return cross_entropy(classes, batch["labels.class"]) + mse_loss(place / scale, batch["targets.place"] / scale)

    return exported(trained(TwoHeads, turned_samples, loss, steps=400, seed=seed), example(), ["class", "place"])


def two_headed_check(before: Arrays, after: Arrays, fresh: Arrays) -> dict[str, float]:
    return {
        "accuracy": accuracy_lost(before["class"], after["class"], fresh["labels.class"]),
        "changed": changed(before["class"], after["class"]),
        "unexplained": unexplained(before["place"], after["place"], -1),
    }


@entry
def two_headed() -> Entry:
    """A class and three numbers, without truth: neither output may be bought with the other."""
    broken = {"accuracy": 0.1, "changed": 0.15, "unexplained": 0.2}
    return made(
        "two_headed",
        "two heads",
        two_headed_model(0),
        turned_samples,
        two_headed_check,
        broken,
        max_drop=0.03,
        truth=False,
    )


@entry
def two_headed_truth() -> Entry:
    """The same with `labels.class` and `targets.place`."""
    broken = {"accuracy": 0.1, "changed": 0.2, "unexplained": 0.3}
    return made(
        "two_headed_truth", "two heads", two_headed_model(1), turned_samples, two_headed_check, broken, max_drop=0.03
    )
