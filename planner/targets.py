"""What the machine that will run the network can do: one data file for each target in `planner/profiles`.

A target says which formats a plan may use. It does not say how fast they are: latency is measured, or given as a table.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from planner.errors import ConstraintImpossible
from quantization.formats import Granularity, IntegerFormat, UnsignedFormat, WeightFormat

_PROFILES = files("planner") / "profiles"

OPSETS = range(18, 26)
"""Opsets that a network can be written for."""

FIRST_OPSET_OF_BITS = {16: 21}
"""The first opset whose QuantizeLinear has a width of activations, of those that not all have."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a target supports, widths in bits, ascending.

    `unpacks` says that weights are turned back into floats or 8-bit codes before they are multiplied, so that every
    format of storage is one. `activation_bits` is empty where activations stay float32. `opset` is the newest that the
    target takes.
    """

    name: str
    description: str
    weight_bits: tuple[int, ...]
    granularities: tuple[Granularity, ...]
    unpacks: bool
    activation_bits: tuple[int, ...]
    opset: int

    def __post_init__(self) -> None:
        for bits in self.weight_bits:
            IntegerFormat(bits)  # raises for a width that does not exist
        for bits in self.activation_bits:
            UnsignedFormat(bits)
        for widths in (self.weight_bits, self.activation_bits):
            if list(widths) != sorted(set(widths)):
                raise ValueError(f"target {self.name}: widths must ascend, each once, got {widths}")
        if not self.weight_bits or not self.granularities:
            raise ValueError(f"target {self.name} needs at least one weight width and one granularity")
        if self.opset not in OPSETS:
            raise ValueError(f"target {self.name}: opset {self.opset}, expected {OPSETS[0]} to {OPSETS[-1]}")

    def opset_for(self, requested: int | None) -> int:
        """The opset of the result: the requested one, or else the newest that the target takes.

        Raises:
            ConstraintImpossible: the target does not take one as new.
        """
        if requested is not None and requested > self.opset:
            raise ConstraintImpossible(
                f"opset asks for {requested}, and the target {self.name} takes {self.opset} at most; take that or an "
                "older one, or name another target"
            )
        return self.opset if requested is None else requested

    def check_activation_bits(self, bits: int, field: str, opset: int) -> None:
        """Refuse a width of activations that the target does not have, or not at the opset of the result; otherwise
        like `check_weight_format`."""
        if not self.activation_bits:
            raise ConstraintImpossible(
                f"{field} asks for {bits} bits, but on the target {self.name} activations stay float32; leave it "
                "null, or name another target"
            )
        self._check(bits, self.activation_bits, "activations", field)
        if opset < FIRST_OPSET_OF_BITS.get(bits, opset):
            raise ConstraintImpossible(
                f"{field} asks for {bits} bits, which ONNX has from opset {FIRST_OPSET_OF_BITS[bits]} on, and the "
                f"result is to have opset {opset}; take 8 bits, or set opset to {FIRST_OPSET_OF_BITS[bits]} or above"
            )

    def check_weight_format(self, format_: WeightFormat, field: str) -> None:
        """Refuse a format of weights that the target does not have.

        Args:
            format_: the format.
            field: of the request, for the text.

        Raises:
            ConstraintImpossible: the text names the nearest format that is supported.
        """
        if not self.unpacks and not (isinstance(format_, IntegerFormat) and format_.has_kernel):
            raise ConstraintImpossible(
                f"{field} asks for {format_.name}, and the target {self.name} multiplies symmetric integers with "
                f"one scale per {' or '.join(self.granularities)}; take "
                f"int{_nearest(round(format_.bits), self.weight_bits)}/{self.granularities[0]}"
            )
        if not isinstance(format_, IntegerFormat):
            return
        if format_.granularity not in self.granularities:
            raise ConstraintImpossible(
                f"{field} asks for a scale per {format_.granularity}, which the target {self.name} does not "
                f"support; take {' or '.join(self.granularities)}"
            )
        self._check(format_.bits, self.weight_bits, "weights", field)

    def _check(self, bits: int, supported: tuple[int, ...], what: str, field: str) -> None:
        if bits not in supported:
            raise ConstraintImpossible(
                f"{field} asks for {bits} bits, which the target {self.name} does not support; the nearest is "
                f"{_nearest(bits, supported)}, and it has {what} in {', '.join(map(str, supported))} bits"
            )


def _nearest(bits: int, supported: tuple[int, ...]) -> int:
    # of two that are as near the wider one, which does less damage
    return min(supported, key=lambda width: (abs(width - bits), -width))


@cache
def target(name: str) -> Target:
    """The target called `name`.

    Raises:
        LookupError: there is none; the text lists what there is.
    """
    if name not in target_names():
        raise LookupError(f"no target is called {name!r}; there are {', '.join(target_names())}")
    profile: dict[str, Any] = json.loads((_PROFILES / f"{name}.json").read_text(encoding="utf-8"))
    weights, activations = profile["weights"], profile["activations"]
    return Target(
        name,
        profile["description"],
        tuple(weights["bits"]),
        tuple(Granularity(granularity) for granularity in weights["granularities"]),
        weights["unpacks"],
        tuple(activations["bits"]),
        profile["opset"],
    )


@cache
def target_names() -> tuple[str, ...]:
    """The names of all targets, in alphabetical order."""
    return tuple(sorted(file.name.removesuffix(".json") for file in _PROFILES.iterdir() if file.name.endswith(".json")))
