"""Images to images: depth, denoising, reconstruction through a bottleneck, and a variational autoencoder."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from benchmarks.certificates.entry import Array, Arrays, Entry, entry, made
from benchmarks.certificates.losses import r2_lost, unexplained
from benchmarks.certificates.synthetic import digits, shapes
from benchmarks.certificates.training import Batch, exported, trained

SIDE = 16


def depth_samples(rng: np.random.Generator, samples: int) -> dict[str, Array]:
    """Shaded balls before a sloping wall, [N, 1, 16, 16], and the depth of every pixel in metres."""
    rows, columns = np.mgrid[:SIDE, :SIDE] / SIDE
    slope = rng.uniform(-1, 1, (samples, 1, 1))
    wall = 4 + slope * (columns - 0.5)
    x, y, radius = (rng.uniform(a, b, (samples, 1, 1)) for a, b in ((0.3, 0.7), (0.3, 0.7), (0.15, 0.3)))
    height = np.sqrt(np.maximum(radius**2 - (columns - x) ** 2 - (rows - y) ** 2, 0)) / radius
    depth = np.where(height > 0, 2.5 - height, wall)
    shade = np.where(height > 0, 0.3 + 0.7 * height, 0.2 + 0.1 * slope * (columns - 0.5) + 0.1)
    image = shade + rng.normal(0, 0.03, shade.shape)
    return {"image": image[:, None].astype(np.float32), "targets": depth[:, None].astype(np.float32)}


def noisy_samples(rng: np.random.Generator, samples: int) -> dict[str, Array]:
    clean = shapes(rng, samples)[0][:, :, ::2, ::2]
    clean = np.clip(clean, 0, 1)
    noise = rng.normal(0, 0.3, clean.shape)
    return {"image": (clean + noise).astype(np.float32), "targets": clean.astype(np.float32)}


def plain_digits(rng: np.random.Generator, samples: int) -> dict[str, Array]:
    return {"image": digits(rng, samples)[0]}


def convolutions(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=2, dilation=2),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=4, dilation=4),
        nn.ReLU(),
        nn.Conv2d(width, 1, 3, padding=1),
    )


def by_target(network: nn.Module, batch: Batch) -> Tensor:
    return mse_loss(network(batch["image"]), batch["targets"])


@entry
def depth() -> Entry:
    """Metres for each pixel, which the job has no truth for."""
    network = trained(lambda: convolutions(8), depth_samples, by_target, steps=300, batch=32)
    model = exported(network, {"image": depth_samples(np.random.default_rng(0), 2)["image"]}, ["depth"])

    def check(before: Arrays, after: Arrays, fresh: Arrays) -> dict[str, float]:
        x, y = before["depth"], after["depth"]
        return {"unexplained": unexplained(x, y), "r2": r2_lost(x, y, fresh["targets"])}

    broken = {"unexplained": 0.1, "r2": 0.15}
    return made("depth", "image to image", model, depth_samples, check, broken, samples=500, truth=False)


@entry
def denoiser() -> Entry:
    """With the clean image as the target; the exporter of torch.export."""
    network = trained(lambda: convolutions(12), noisy_samples, by_target, steps=300, batch=32)
    example = {"image": noisy_samples(np.random.default_rng(0), 2)["image"]}
    model = exported(network, example, ["clean"], dynamo=True)

    def check(before: Arrays, after: Arrays, fresh: Arrays) -> dict[str, float]:
        x, y = before["clean"], after["clean"]
        return {"r2": r2_lost(x, y, fresh["targets"]), "unexplained": unexplained(x, y)}

    return made(
        "denoiser", "image to image", model, noisy_samples, check, {"r2": 0.1, "unexplained": 0.15}, samples=500
    )


@entry
def autoencoder() -> Entry:
    """Digits through 12 numbers and back."""
    network = trained(
        lambda: nn.Sequential(
            nn.Flatten(),
            nn.Linear(64, 96),
            nn.ReLU(),
            nn.Linear(96, 12),
            nn.Linear(12, 96),
            nn.ReLU(),
            nn.Linear(96, 64),
            nn.Unflatten(1, (1, 8, 8)),
        ),
        plain_digits,
        lambda network, batch: mse_loss(network(batch["image"]), batch["image"]),
        steps=500,
    )
    model = exported(network, plain_digits(np.random.default_rng(0), 2), ["again"])

    def check(before: Arrays, after: Arrays, _: Arrays) -> dict[str, float]:
        return {"unexplained": unexplained(before["again"], after["again"])}

    return made("autoencoder", "reconstruction", model, plain_digits, check, {"unexplained": 0.1})


class Variational(nn.Module):
    """Outputs: the reconstruction from the mean code, the mean and the log variance of the code."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Flatten(), nn.Linear(64, 96), nn.ReLU())
        self.mean, self.spread = nn.Linear(96, 8), nn.Linear(96, 8)
        self.decode = nn.Sequential(nn.Linear(8, 96), nn.ReLU(), nn.Linear(96, 64), nn.Sigmoid())

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.encode(image)
        mean, spread = self.mean(x), self.spread(x)
        code = mean + torch.exp(spread / 2) * torch.randn_like(mean) if self.training else mean
        again: Tensor = self.decode(code)
        return again, mean, spread


@entry
def variational() -> Entry:
    """Three outputs: what is decoded, and the code as mean and log variance."""

    def loss(network: nn.Module, batch: Batch) -> Tensor:
        again, mean, spread = network(batch["image"])
        divergence = 0.5 * (mean**2 + torch.exp(spread) - spread - 1).sum(1).mean()
        error = mse_loss(again, batch["image"].flatten(1), reduction="sum") / len(again)
        value: Tensor = error / 0.05 + divergence
        return value

    network = trained(Variational, plain_digits, loss, steps=500)
    model = exported(network, plain_digits(np.random.default_rng(0), 2), ["again", "mean", "log_variance"])

    def check(before: Arrays, after: Arrays, _: Arrays) -> dict[str, float]:
        return {
            "unexplained": unexplained(before["again"], after["again"]),
            "unexplained_code": max(unexplained(before[k], after[k], -1) for k in ("mean", "log_variance")),
        }

    return made(
        "variational", "reconstruction", model, plain_digits, check, {"unexplained": 0.1, "unexplained_code": 0.3}
    )
