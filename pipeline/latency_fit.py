"""Times of layers made to add up to those of whole networks.

A layer that is timed alone does not know what ONNX Runtime fuses across layers, nor which conversions stand between
quantized and float parts. So whole networks are timed too: in float, and for each format that layers read with every
layer in its fastest format. What layers save is scaled so that the sums are these times; plans in between are between.

    scale = (float network - fastest network) / (what its layers save), one for each format that layers read
    ms    = stretch * float layer - scale * (float layer - layer), at least 0
    base  = float network - stretch * sum of float layers, at least 0

Layers that save more inside of the network take as much longer there: `stretch` is the largest scale above 1 that the
base allows. It is below 1 where the layers alone take longer than the network. What a layer takes longer than in float
is not scaled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quantization.formats import FloatFormat

FLOAT = FloatFormat().name

Times = Mapping[str, Mapping[str, float]]
"""Milliseconds by site and by what `pipeline.latency_table.entry` calls a format."""


@dataclass(frozen=True, slots=True)
class Whole:
    """A network whose sites have these formats, by name, and what it took, in milliseconds."""

    keys: Mapping[str, str]
    ms: float


@dataclass(frozen=True, slots=True)
class Fit:
    """`base_ms` and the `times` of layers, which add up to whole networks; `scales` of what layers save, by the format
    that they read, "" for float."""

    base_ms: float
    times: dict[str, dict[str, float]]
    scales: dict[str, float]


def read_by(key: str) -> str:
    """The format of what a layer reads, "" for float."""
    return key.partition("+")[2]


def fit(times: Times, float_ms: float, wholes: Mapping[str, Whole], least_share: float) -> Fit:
    """Times that add up.

    Args:
        times: of single layers, `FLOAT` among the formats of each site.
        float_ms: of the float network.
        wholes: other networks, by the format that their layers read, "" for float, which comes first. Some of their
            layers may read floats all the same.
        least_share: of `float_ms`; a network whose layers save less says nothing, and their scale is 1.
    """
    in_float = math.fsum(own[FLOAT] for own in times.values())
    shrunk = min(1.0, float_ms / in_float) if in_float else 1.0
    layers = {name: {key: shrunk * ms for key, ms in own.items()} for name, own in times.items()}
    scales: dict[str, float] = {}
    for read, whole in wholes.items():
        saved = {name: layers[name][FLOAT] - layers[name][key] for name, key in whole.keys.items()}
        own = [name for name, key in whole.keys.items() if read_by(key) == read]
        rest = math.fsum(_scaled(saved[name], 1.0 if name in own else scales.get("", 1.0)) for name in saved)
        gain = math.fsum(max(saved[name], 0.0) for name in own)
        scales[read] = (float_ms - whole.ms - (rest - gain)) / gain if gain > least_share * float_ms else 1.0
    most = float_ms / (shrunk * in_float) if in_float else 1.0
    stretch = min(max(1.0, *scales.values()), most)
    fitted = {
        name: {
            key: max(stretch * own[FLOAT] - _scaled(own[FLOAT] - ms, scales.get(read_by(key), 1.0)), 0.0)
            for key, ms in own.items()
        }
        for name, own in layers.items()
    }
    return Fit(max(float_ms - stretch * shrunk * in_float, 0.0), fitted, scales)


def fastest(times: Times, choices: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The fastest of the formats that each site may get, the last among equals."""
    return {name: min(reversed(keys), key=lambda key: times[name][key]) for name, keys in choices.items()}


def _scaled(saved: float, scale: float) -> float:
    return scale * saved if saved > 0 else saved
