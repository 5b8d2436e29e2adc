"""Networks that listen: spectra, convolutions over time, recurrent layers, CTC."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, log_softmax, relu

from benchmarks.certificates.training import exported
from benchmarks.networks.entry import Array, Network, made, network
from benchmarks.networks.random_weights import first, lively, noisy_classes, normal


def features(rng: np.random.Generator, n: int) -> dict[str, Array]:
    """Frames that follow each other slowly: [N, 8 bands, 24 frames]."""
    noise = rng.normal(size=(n, 8, 24))
    return {"features": (np.cumsum(noise, 2) * 0.4 + noise).astype(np.float32)}


class ConvGru(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(8, 16, 5, 2, 2)
        self.norm = nn.BatchNorm1d(16)
        self.layer = nn.GRU(16, 20, batch_first=True)
        self.head = nn.Linear(20, 6)

    def forward(self, features: Tensor) -> Tensor:
        x = relu(self.norm(self.convolution(features))).transpose(1, 2)
        logits: Tensor = self.head(self.layer(x)[0][:, -1])
        return logits


@network("speech commands, convolution and GRU, two lengths")
def conv_gru() -> Network:
    free = {"features": {2: "frames"}}
    model = exported(lively(ConvGru, *first(features, 32).values()), first(features), ["logits"], free=free)

    def draw(rng: np.random.Generator, n: int) -> dict[str, Array]:
        short, long = features(rng, n // 2)["features"], features(rng, n - n // 2)["features"]
        return {"short/features": short[:, :, :16], "long/features": long}

    return made(model, draw, lengths=({"features": np.ones((1, 8, 40), np.float32)},))


class Ctc(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(8, 24, 3, 1, 1), nn.ReLU(), nn.Conv1d(24, 24, 3, 1, 1, groups=4), nn.ReLU(), nn.Conv1d(24, 9, 1)
        )

    def forward(self, features: Tensor) -> Tensor:
        return log_softmax(self.layers(features).permute(2, 0, 1), -1)


@network("CTC, time first in the output")
def ctc() -> Network:
    free = {"features": {2: "frames"}, "log_probs": {0: "frames"}}
    model = exported(lively(Ctc), first(features), ["log_probs"], free=free, batch_axes={"log_probs": 1})
    return made(model, features, batch_axes={"log_probs": 1})


class KeywordSpotter(nn.Module):
    """Short-time Fourier transform, mel bands, logarithm with an epsilon, a small convolutional network."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(64))
        bands = np.maximum(0, 1 - np.abs(np.arange(33)[:, None] / 33 * 11 - np.arange(1, 11)))
        self.register_buffer("bands", torch.from_numpy(bands.astype(np.float32)))
        self.network = nn.Sequential(nn.Conv1d(10, 16, 3, 1, 1), nn.ReLU(), nn.Conv1d(16, 12, 3, 2, 1), nn.ReLU())
        self.head = nn.Linear(12, 5)

    def forward(self, samples: Tensor) -> Tensor:
        spectrum = torch.stft(samples, 64, 32, window=self.window, center=False, return_complex=False, onesided=True)
        power = spectrum.pow(2).sum(-1).transpose(1, 2)
        bands = torch.log(power @ self.bands + 1e-10)
        logits: Tensor = self.head(self.network(bands.transpose(1, 2)).mean(-1))
        return logits


@network("keyword spotter from samples, STFT and log-mel")
def keyword_stft() -> Network:
    def draw(rng: np.random.Generator, n: int) -> dict[str, Array]:
        time = np.arange(512) / 512
        tones = np.sin(2 * np.pi * rng.uniform(5, 200, (n, 1)) * time) * rng.uniform(0.2, 1, (n, 1))
        sound = tones + 0.1 * rng.normal(size=(n, 512))
        return {"samples": (sound * (rng.random((n, 1)) > 0.1)).astype(np.float32)}

    model = exported(lively(KeywordSpotter), first(draw), ["logits"])
    return made(model, draw, labels=noisy_classes(model))


class Wav2Vec(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.norm = nn.Conv1d(1, 16, 10, 5), nn.GroupNorm(16, 16)
        self.next, self.places = nn.Conv1d(16, 24, 3, 2), nn.Conv1d(24, 24, 8, padding=4, groups=4)
        self.layer = nn.TransformerEncoderLayer(24, 4, 48, activation="gelu", batch_first=True)
        self.head = nn.Linear(24, 7)

    def forward(self, samples: Tensor) -> Tensor:
        x = gelu(self.next(gelu(self.norm(self.enter(samples[:, None])))))
        x = (x + gelu(self.places(x)[:, :, :-1])).transpose(1, 2)
        logits: Tensor = self.head(self.layer(x))
        return logits


@network("speech recognizer, wav2vec, new exporter")
def wav2vec() -> Network:
    draw = normal(samples=(160,))
    model = exported(lively(Wav2Vec), first(draw), ["logits"], dynamo=True)
    return made(model, draw)


class Tcn(nn.Module):
    """Dilated convolutions that look back only."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv1d(8 if i == 0 else 16, 16, 3, dilation=2**i) for i in range(3))
        self.head = nn.Conv1d(16, 2, 1)

    def forward(self, features: Tensor) -> Tensor:
        x = features
        for index, layer in enumerate(self.layers):
            y = relu(layer(nn.functional.pad(x, (2 * 2**index, 0))))
            x = y if index == 0 else x + y
        forecast: Tensor = self.head(x)
        return forecast


@network("forecast, temporal convolutions, free length")
def tcn() -> Network:
    free = {name: {2: "steps"} for name in ("features", "forecast")}
    model = exported(lively(Tcn), first(features), ["forecast"], free=free, opset=13)
    return made(model, features, lengths=({"features": np.ones((2, 8, 11), np.float32)},))
