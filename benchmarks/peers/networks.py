"""The networks: one that is read, and others that are trained here in seconds, with as many samples as asked for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.certificates.entry import Array
from benchmarks.certificates.synthetic import digits
from benchmarks.certificates.training import Batch, exported, trained
from examples.networks import DigitsMobileNet, DigitsResNet, DigitsTransformer

SAMPLES, FRESH = 3_000, 10_000
INPUT, LABELS = "image", "labels"


@dataclass(frozen=True, eq=False)
class PeerCase:
    """A network and its samples.

    Args:
        model: the float file.
        samples: an `.npz` of the one input and of labels; every tool gets it, and so do we.
        fresh: inputs `[N, ...]` and `labels` `[N]` that no tool sees.
    """

    name: str
    model: Path
    samples: Path
    input: str
    fresh: NDArray[np.float32]
    labels: NDArray[np.int64]


class DigitsRecurrent(nn.Module):
    """Two layers of LSTM that read a digit row by row; 103,000 weights."""

    def __init__(self, hidden: int = 88) -> None:
        super().__init__()
        self.recur = nn.LSTM(8, hidden, num_layers=2, batch_first=True)
        self.fc = nn.Linear(hidden, 10)

    def forward(self, image: Tensor) -> Tensor:
        states, _ = self.recur(image.squeeze(1))
        return self.fc(states[:, -1])


TRAINED: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "depthwise": (DigitsMobileNet, 300),
    "transformer": (DigitsTransformer, 300),
    "recurrent": (DigitsRecurrent, 300),
    "residual": (DigitsResNet, 300),
}
"""By name what makes the network, and the steps of training."""
NAMES = ("resnet20", "depthwise", "transformer", "recurrent")
"""Those that other tools are run on."""


def cases(data: Path, work: Path, names: tuple[str, ...] = NAMES) -> Iterator[PeerCase]:
    """The networks called `names`, each made when it is its turn; `data` as for `benchmarks.job`, files into `work`."""
    for name in names:
        folder = work / name
        folder.mkdir()
        yield _read(data, folder) if name == "resnet20" else _trained(name, folder)


def _read(data: Path, folder: Path) -> PeerCase:
    for name in ("calibration", "evaluation"):
        script = [sys.executable, str(data / "prepare.py")]
        subprocess.run([*script, str(data / f"{name}_images.npz"), str(folder / f"{name}.npz")], check=True)
    with np.load(folder / "evaluation.npz") as archive:
        fresh, labels = archive["input"], archive[LABELS]
    return PeerCase("resnet20", data / "resnet20.onnx", folder / "calibration.npz", "input", fresh, labels)


def _trained(name: str, folder: Path) -> PeerCase:
    make, steps = TRAINED[name]
    network = trained(make, _draw, _loss, steps=steps)
    model, samples = folder / "float.onnx", folder / "calibration.npz"
    example = {INPUT: _draw(np.random.default_rng(0), 2)[INPUT]}
    # the newer exporter knows the encoder's own operator, the older one writes ONNX's LSTM
    model.write_bytes(exported(network, example, ["logits"], dynamo=name == "transformer"))
    np.savez(samples, **_draw(np.random.default_rng(101), SAMPLES))
    fresh = _draw(np.random.default_rng(202), FRESH)
    return PeerCase(name, model, samples, INPUT, fresh[INPUT], fresh[LABELS])


def _draw(rng: np.random.Generator, samples: int) -> dict[str, Array]:
    return dict(zip((INPUT, LABELS), digits(rng, samples), strict=True))


def _loss(network: nn.Module, batch: Batch) -> Tensor:
    logits: Tensor = network(batch[INPUT])
    return cross_entropy(logits, batch[LABELS].to(torch.int64))
