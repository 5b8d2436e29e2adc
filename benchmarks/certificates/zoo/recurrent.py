"""Recurrent networks of which one step is exported: states go in and come out."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from benchmarks.certificates.entry import Array, Arrays, Draw, Entry, entry, made
from benchmarks.certificates.losses import unexplained
from benchmarks.certificates.synthetic import series
from benchmarks.certificates.training import Batch, exported, trained

HIDDEN, STEPS = 24, 20
SCALE, MEAN = np.array([1.0, 10.0], np.float32), np.array([0.0, 20.0], np.float32)


def wave_samples(rng: np.random.Generator, samples: int) -> dict[str, Array]:
    """Series [N, 21, 2], scaled."""
    return {"series": (series(rng, samples, STEPS + 1) - MEAN) / SCALE}


class Long(nn.Module):
    """One step of an LSTM in ONNX's own operator: states [N, 1, H]."""

    def __init__(self) -> None:
        super().__init__()
        self.recur, self.head = nn.LSTM(2, HIDDEN), nn.Linear(HIDDEN, 2)

    def forward(self, value: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        states = hidden.transpose(0, 1).contiguous(), cell.transpose(0, 1).contiguous()
        output, (hidden, cell) = self.recur(value.unsqueeze(0), states)
        return self.head(output.squeeze(0)), hidden.transpose(0, 1), cell.transpose(0, 1)


class Gated(nn.Module):
    """One step of a GRU: state [N, 1, H]."""

    def __init__(self) -> None:
        super().__init__()
        self.recur, self.head = nn.GRU(2, HIDDEN), nn.Linear(HIDDEN, 2)

    def forward(self, value: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        output, hidden = self.recur(value.unsqueeze(0), hidden.transpose(0, 1).contiguous())
        return self.head(output.squeeze(0)), hidden.transpose(0, 1)


class ByHand(nn.Module):
    """A gated cell of plain products: state [N, H]."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.new, self.head = (
            nn.Linear(HIDDEN + 2, HIDDEN),
            nn.Linear(HIDDEN + 2, HIDDEN),
            nn.Linear(HIDDEN, 2),
        )

    def forward(self, value: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        both = torch.cat([value, hidden], -1)
        gate = torch.sigmoid(self.gate(both))
        hidden = gate * hidden + (1 - gate) * torch.tanh(self.new(both))
        return self.head(hidden), hidden


def first_states(network: nn.Module, samples: int) -> tuple[Tensor, ...]:
    if isinstance(network, ByHand):
        return (torch.zeros(samples, HIDDEN),)
    return (torch.zeros(samples, 1, HIDDEN),) * (2 if isinstance(network, Long) else 1)


def next_value(network: nn.Module, batch: Batch) -> Tensor:
    """The next value of the series from each step's output."""
    values = batch["series"]
    states = first_states(network, len(values))
    loss = torch.zeros(())
    for step in range(STEPS):
        output, *rest = network(values[:, step], *states)
        states = tuple(rest)
        loss = loss + mse_loss(output, values[:, step + 1])
    return loss / STEPS


def stepped(network: nn.Module, names: tuple[str, ...]) -> Draw:
    """Samples of one step: a value, and the states that the network itself has reached before it."""

    def draw(rng: np.random.Generator, samples: int) -> dict[str, Array]:
        values = torch.from_numpy(wave_samples(rng, samples)["series"])
        ends = torch.from_numpy(rng.integers(0, STEPS, samples))
        states = first_states(network, samples)
        kept = [state.clone() for state in states]
        with torch.no_grad():
            for step in range(STEPS):
                _, *rest = network(values[:, step], *states)
                states = tuple(rest)
                for target, state in zip(kept, states, strict=True):
                    later = ends > step
                    target[later] = state[later]
        value = values[torch.arange(samples), ends]
        return {"value": value.numpy(), **{n: k.contiguous().numpy() for n, k in zip(names, kept, strict=True)}}

    return draw


def recurrent(name: str, kind: type[nn.Module], states: tuple[str, ...]) -> Entry:
    network = trained(kind, wave_samples, next_value, steps=150, batch=32, rate=1e-2)
    draw = stepped(network, states)
    example = draw(np.random.default_rng(0), 2)
    outputs = ["next", *(f"{state}_next" for state in states)]
    model = exported(network, example, outputs)

    def check(before: Arrays, after: Arrays, _: Arrays) -> dict[str, float]:
        return {
            "unexplained": unexplained(before["next"], after["next"], -1),
            "states": max(unexplained(before[o], after[o]) for o in outputs[1:]),
        }

    broken = {"unexplained": 0.15, "states": 0.15}
    return made(name, "recurrent with states", model, draw, check, broken, max_drop=0.03)


@entry
def lstm_step() -> Entry:
    return recurrent("lstm_step", Long, ("hidden", "cell"))


@entry
def gru_step() -> Entry:
    return recurrent("gru_step", Gated, ("hidden",))


@entry
def cell_by_hand() -> Entry:
    return recurrent("cell_by_hand", ByHand, ("hidden",))
