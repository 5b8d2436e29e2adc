"""Multiply-accumulates of what both exporters of torch write, against a count from a plain run of the exported file."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from network.admission import AdmissionLimits, admit
from network.faithful import faithful
from network.normalise import dump, load
from tests.oracles.bit_operations import macs_of_values, macs_with_weights

LIMITS = AdmissionLimits(max_model_bytes=1 << 24, max_memory_bytes=1 << 30, max_nodes=10_000)
WIDTH, HEADS, WORDS = 16, 2, 20


class Encoder(nn.Module):
    """Tokens of any number, through two layers of a transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(32, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 3 * WIDTH, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.words(ids) + self.places(torch.arange(ids.shape[1]))
        return self.head(self.layers(x).mean(1))


class Convolutions(nn.Module):
    """Images of any size, down, with groups, and up again."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.head = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.down(x)))
        x = nn.functional.interpolate(self.grouped(x), scale_factor=2.0)
        return self.head(self.up(x).mean((2, 3)))


class Recurrent(nn.Module):
    """Steps of any number."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.LSTM(6, 8, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.cells(x)[0])


class Detector(nn.Module):
    """The best of all places of a feature map, and a layer behind the choice."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.scores, self.boxes = nn.Conv2d(8, 2, 1), nn.Conv2d(8, 4, 1)
        self.refine = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = torch.relu(self.features(x))
        scores, boxes = self.scores(features).flatten(2).amax(1), self.boxes(features).flatten(2).transpose(1, 2)
        best, places = scores.topk(3, dim=1)
        return best, self.refine(boxes.gather(1, places[..., None].expand(-1, -1, 4)))


class Decoder(nn.Module):
    """One layer that sees new tokens and a cache of any length."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(32, WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, WORDS)

    def forward(self, ids: torch.Tensor, past: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.words(ids) + self.places(past.shape[1] + torch.arange(ids.shape[1]))
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        cache = torch.cat([past, torch.cat([key, value], dim=-1)], dim=1)
        keys, values = cache.chunk(2, dim=-1)
        x = x + self.out(torch.softmax(query @ keys.transpose(1, 2) / WIDTH**0.5, dim=-1) @ values)
        return self.head(x), cache


@dataclass(frozen=True)
class Case:
    """A module, one sample of each of its inputs, and by input the axes that are free besides the batch axis."""

    make: Callable[[], nn.Module]
    samples: dict[str, NDArray[Any]]
    free: dict[str, tuple[int, ...]]


def images(height: int, width: int) -> NDArray[Any]:
    return np.random.default_rng(0).normal(size=(6, 3, height, width)).astype(np.float32)


CASES = {
    "encoder": Case(Encoder, {"ids": np.arange(6 * 7).reshape(6, 7) % WORDS}, {"ids": (1,)}),
    "convolutions": Case(Convolutions, {"x": images(12, 10)}, {"x": (2, 3)}),
    "recurrent": Case(Recurrent, {"x": images(5, 6)[:, 0].copy()}, {"x": (1,)}),
    "detector": Case(Detector, {"x": images(10, 8)}, {"x": (2, 3)}),
    "decoder": Case(
        Decoder,
        {"ids": np.arange(6 * 3).reshape(6, 3) % WORDS, "past": np.ones((6, 9, 2 * WIDTH), np.float32)},
        {"ids": (1,), "past": (1,)},
    ),
}


def exported(case: Case, path: Path, *, dynamo: bool) -> bytes:
    torch.manual_seed(0)
    module = case.make().eval()
    axes: dict[str, Any] = {
        "dynamic_axes": {name: {0: "N", **{a: f"{name}_{a}" for a in free}} for name, free in case.free.items()}
    }
    if dynamo:
        any_length = torch.export.Dim.DYNAMIC
        shapes = tuple({0: any_length, **dict.fromkeys(free, any_length)} for free in case.free.values())
        axes = {"dynamic_shapes": shapes, "external_data": False}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    arguments = tuple(torch.from_numpy(array[:2]) for array in case.samples.values())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own use of deprecated names
        torch.onnx.export(
            module, arguments, str(path), dynamo=dynamo, verbose=False, input_names=list(case.samples), **axes
        )
    return path.read_bytes()


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_multiply_accumulates_are_those_of_a_run(name: str, dynamo: bool, tmp_path: Path) -> None:
    case = CASES[name]
    uploaded = exported(case, tmp_path / "m.onnx", dynamo=dynamo)
    shapes = {name: array.shape[1:] for name, array in case.samples.items()}
    network = faithful(uploaded, admit(uploaded, LIMITS), case.samples, shapes)
    feed = {name: array[:1] for name, array in case.samples.items()}
    assert all(site.macs_known for site in network.sites)
    assert sum(site.macs for site in network.sites) == macs_with_weights(onnx.load_model_from_string(uploaded), feed)
    for opset in (network.opset, 21):
        again = load(dump(network), opset)
        assert [(s.name, s.macs, s.macs_known) for s in again.sites] == [(s.name, s.macs, True) for s in network.sites]
    assert (macs_of_values(network.proto, feed) > 0) == (name in ("encoder", "decoder"))
