"""Regressors with targets and without, single numbers, and forecasts."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

from benchmarks.certificates.entry import Array, Arrays, Entry, entry, made
from benchmarks.certificates.losses import auc, flips, r2_lost, unexplained
from benchmarks.certificates.synthetic import digits, series, tones
from benchmarks.certificates.training import Batch, exported, trained

UNITS = np.array([1.0, 100.0, 0.01], np.float32)


def mixed_samples(rng: np.random.Generator, samples: int) -> dict[str, Array]:
    """Features [N, 12] and three targets of quite different units."""
    x = rng.normal(0, 1, (samples, 12))
    mixing = np.random.default_rng(4).normal(0, 0.5, (12, 3))
    y = np.sin(x @ mixing) + 0.3 * (x @ mixing[:, ::-1]) + rng.normal(0, 0.1, (samples, 3))
    y = (y + np.array([0, 3, 1])) * UNITS
    return {"features": x.astype(np.float32), "targets": y.astype(np.float32)}


class Units(nn.Module):
    """A regressor that ends in the units of its targets."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(12, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 3))
        self.register_buffer("units", torch.from_numpy(UNITS))
        self.register_buffer("offset", torch.tensor([0.0, 3.0, 1.0]))

    def forward(self, features: Tensor) -> Tensor:
        values: Tensor = (self.body(features) + self.offset) * self.units
        return values


@entry
def regressor_targets() -> Entry:
    """Three numbers in different units, with targets."""
    network = trained(
        Units,
        mixed_samples,
        lambda network, batch: mse_loss(
            network(batch["features"]) / torch.from_numpy(UNITS), batch["targets"] / torch.from_numpy(UNITS)
        ),
        steps=500,
    )

    def check(before: Arrays, after: Arrays, fresh: Arrays) -> dict[str, float]:
        x, y = before["values"], after["values"]
        return {"r2": r2_lost(x, y, fresh["targets"], -1), "unexplained": unexplained(x, y, -1)}

    model = exported(network, {"features": mixed_samples(np.random.default_rng(0), 2)["features"]}, ["values"])
    return made("regressor_targets", "regressor", model, mixed_samples, check, {"r2": 0.08, "unexplained": 0.1})


@entry
def regressor() -> Entry:
    """The same kind without targets; the exporter of torch.export."""
    network = trained(
        Units,
        mixed_samples,
        lambda network, batch: mse_loss(
            network(batch["features"]) / torch.from_numpy(UNITS), batch["targets"] / torch.from_numpy(UNITS)
        ),
        steps=400,
        seed=1,
    )

    def check(before: Arrays, after: Arrays, _: Arrays) -> dict[str, float]:
        return {"unexplained": unexplained(before["values"], after["values"], -1)}

    example = {"features": mixed_samples(np.random.default_rng(0), 2)["features"]}
    model = exported(network, example, ["values"], dynamo=True)
    return made("regressor", "regressor", model, mixed_samples, check, {"unexplained": 0.1}, truth=False)


def count_samples(rng: np.random.Generator, samples: int) -> dict[str, Array]:
    """Digits, and a number of the ink in the lower half and the class."""
    images, classes = digits(rng, samples)
    value = (2 + classes * 0.05 + images[:, 0, 4:].mean((1, 2)) * 4).astype(np.float32)
    return {"image": images, "targets": value[:, None]}


def one_number() -> nn.Module:
    def loss(network: nn.Module, batch: Batch) -> Tensor:
        return mse_loss(network(batch["image"]), batch["targets"])

    return trained(
        lambda: nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 12, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(192, 16),
            nn.ReLU(),
            nn.Linear(16, 1),
        ),
        count_samples,
        loss,
        steps=600,
        rate=8e-3,
    )


@entry
def single_number() -> Entry:
    """One number for each sample, always positive: its cosine is 1 whatever it is."""
    model = exported(one_number(), {"image": count_samples(np.random.default_rng(0), 2)["image"]}, ["value"])

    def check(before: Arrays, after: Arrays, fresh: Arrays) -> dict[str, float]:
        x, y = before["value"], after["value"]
        return {"unexplained": unexplained(x, y), "r2": r2_lost(x, y, fresh["targets"])}

    broken = {"unexplained": 0.1, "r2": 0.1}
    return made("single_number", "single number", model, count_samples, check, broken, truth=False)


@entry
def single_number_flat() -> Entry:
    """The same as [N], without a second axis, with targets [N]."""
    network = nn.Sequential(one_number(), nn.Flatten(0))
    model = exported(network, {"image": count_samples(np.random.default_rng(0), 2)["image"]}, ["value"])

    def flat_samples(rng: np.random.Generator, samples: int) -> dict[str, Array]:
        drawn = count_samples(rng, samples)
        return {"image": drawn["image"], "targets": drawn["targets"][:, 0]}

    def check(before: Arrays, after: Arrays, fresh: Arrays) -> dict[str, float]:
        x, y = before["value"], after["value"]
        return {"r2": r2_lost(x, y, fresh["targets"]), "unexplained": unexplained(x, y)}

    return made("single_number_flat", "single number", model, flat_samples, check, {"r2": 0.1, "unexplained": 0.1})


def voice_samples(rng: np.random.Generator, samples: int) -> dict[str, Array]:
    """Spectra [N, 64] of tones or of noise alone; 1 where there is a tone (`labels`)."""
    waves, _ = tones(rng, samples)
    active = rng.random(samples) < 0.5
    waves = np.where(active[:, None], waves * 0.8, rng.normal(0, 0.5, waves.shape))
    spectrum = np.log(np.abs(np.fft.rfft(waves)[:, 1:65]) + 1)
    return {"spectrum": (spectrum / 4).astype(np.float32), "labels": active.astype(np.int64)}


def listener(steps: int, seed: int) -> nn.Module:
    def loss(network: nn.Module, batch: Batch) -> Tensor:
        return binary_cross_entropy_with_logits(network(batch["spectrum"])[:, 0], batch["labels"].float())

    network = trained(
        lambda: nn.Sequential(nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 1)),
        voice_samples,
        loss,
        steps=steps,
        seed=seed,
    )
    return nn.Sequential(network, nn.Sigmoid())


def spectrum_example() -> dict[str, Array]:
    return {"spectrum": voice_samples(np.random.default_rng(0), 2)["spectrum"]}


@entry
def voice_activity() -> Entry:
    """One probability past a sigmoid, no labels."""

    def check(before: Arrays, after: Arrays, fresh: Arrays) -> dict[str, float]:
        x, y, labels = before["probability"], after["probability"], fresh["labels"]
        return {
            "flips": flips(x, y),
            "true_auc": auc(x, labels) - auc(y, labels),
            "unexplained": unexplained(x, y),
        }

    model = exported(listener(300, 0), spectrum_example(), ["probability"])
    broken = {"flips": 0.08, "true_auc": 0.05, "unexplained": 0.15}
    return made("voice_activity", "single score", model, voice_samples, check, broken, truth=False)


@entry
def wake_word() -> Entry:
    """One probability past a sigmoid, with labels 0 and 1."""

    def check(before: Arrays, after: Arrays, fresh: Arrays) -> dict[str, float]:
        x, y, labels = before["probability"], after["probability"], fresh["labels"]
        decided = [((p[:, 0] > 0.5) == (labels == 1)).mean() for p in (x, y)]
        return {
            "decisions": float(decided[0] - decided[1]),
            "auc": auc(x, labels) - auc(y, labels),
            "turned": flips(x, y),
            "unexplained": unexplained(x, y),
        }

    model = exported(listener(200, 5), spectrum_example(), ["probability"])
    broken = {"decisions": 0.08, "auc": 0.05, "turned": 0.12, "unexplained": 0.3}
    return made("wake_word", "single score", model, voice_samples, check, broken)


PAST, FUTURE = 24, 6


def forecast_samples(rng: np.random.Generator, samples: int) -> dict[str, Array]:
    values = series(rng, samples, PAST + FUTURE)
    return {"past": values[:, :PAST], "targets": values[:, PAST:]}


class Forecaster(nn.Module):
    """Past [N, 24, 2] to the next six steps [N, 6, 2], in the units of the series."""

    mean: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.recur, self.head = nn.LSTM(2, 20, batch_first=True), nn.Linear(20, FUTURE * 2)
        self.register_buffer("mean", torch.tensor([0.0, 20.0]))
        self.register_buffer("scale", torch.tensor([1.0, 10.0]))

    def forward(self, past: Tensor) -> Tensor:
        states = self.recur((past - self.mean) / self.scale)[0]
        future: Tensor = self.head(states[:, -1]).view(-1, FUTURE, 2) * self.scale + self.mean
        return future


@entry
def forecaster() -> Entry:
    """Two series of different scales, with the future as targets."""

    def loss(network: nn.Module, batch: Batch) -> Tensor:
        scale = torch.tensor([1.0, 10.0])
        return mse_loss(network(batch["past"]) / scale, batch["targets"] / scale)

    network = trained(Forecaster, forecast_samples, loss, steps=500)

    def check(before: Arrays, after: Arrays, fresh: Arrays) -> dict[str, float]:
        x, y = before["future"], after["future"]
        return {"r2": r2_lost(x, y, fresh["targets"], -1), "unexplained": unexplained(x, y, -1)}

    model = exported(network, {"past": forecast_samples(np.random.default_rng(0), 2)["past"]}, ["future"])
    return made("forecaster", "forecaster", model, forecast_samples, check, {"r2": 0.08, "unexplained": 0.12})
