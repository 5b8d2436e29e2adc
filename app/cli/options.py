"""The options that make a job, shared by `plan` and `submit`, and the request that they stand for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.output import Refused


class Metric(StrEnum):
    TOP1 = "top1"
    AGREEMENT = "agreement"
    KL = "kl"
    COSINE = "cosine"


class Objective(StrEnum):
    SIZE = "size"
    BIT_OPERATIONS = "bit_operations"
    LATENCY = "latency"


class Rounding(StrEnum):
    GPTQ = "gptq"
    NEAREST = "nearest"


class Granularity(StrEnum):
    CHANNEL = "channel"
    TENSOR = "tensor"


Model = Annotated[Path, typer.Argument(help="The network, an ONNX file.", exists=True, dir_okay=False)]
Data = Annotated[
    Path | None,
    typer.Option(
        help="Samples, a .npz: arrays by input name, sample axis first, and optionally `labels`. Without it the "
        "service makes inputs itself and measures agreement with the float network.",
        exists=True,
        dir_okay=False,
    ),
]
MaxDrop = Annotated[
    float | None, typer.Option(help="Accuracy that may be spent, a fraction: 0.01 is one point.", show_default="0.01")
]
MetricOption = Annotated[Metric | None, typer.Option(help="What accuracy means; by default what the data allow.")]
Relative = Annotated[bool, typer.Option("--relative", help="--max-drop is a fraction of the float network's value.")]
Confidence = Annotated[
    float | None, typer.Option(help="The budget must hold for the upper end of the drop's interval at this level.")
]
ObjectiveOption = Annotated[Objective | None, typer.Option(help="What to make small.", show_default="size")]
Bits = Annotated[str | None, typer.Option(help="Widths that a weight may get: 2-8, or 2,4,8.", show_default="2-8")]
ActivationBits = Annotated[
    str | None, typer.Option(help="Widths that an activation may get: 8, or 4,8,16.", show_default="float32")
]
RoundingOption = Annotated[Rounding | None, typer.Option(help="How weights are rounded.", show_default="gptq")]
GranularityOption = Annotated[Granularity | None, typer.Option(help="What shares a scale.", show_default="channel")]
Keep = Annotated[list[str] | None, typer.Option(help="A layer that stays float32; may be given several times.")]
Deadline = Annotated[
    float | None, typer.Option(help="Seconds after which the best plan found so far is taken.", show_default="none")
]
Seed = Annotated[int | None, typer.Option(help="Of everything random.", show_default="0")]
Request = Annotated[
    Path | None,
    typer.Option(
        help="A JSON file with the request of the API, for everything else; options override it.",
        exists=True,
        dir_okay=False,
    ),
]


@dataclass(frozen=True, slots=True)
class JobOptions:
    """What the options say; None: not given, so the service's default or the request file decides."""

    max_drop: float | None
    metric: Metric | None
    relative: bool
    confidence: float | None
    objective: Objective | None
    bits: str | None
    activation_bits: str | None
    rounding: Rounding | None
    granularity: Granularity | None
    keep: list[str] | None
    deadline: float | None
    seed: int | None
    request: Path | None

    def body(self) -> dict[str, Any]:
        """The request's JSON, without the ids of the uploads.

        Raises:
            Refused: the request file is no JSON object; widths cannot be read.
        """
        body = {} if self.request is None else _read_object(self.request)
        given: dict[str, dict[str, Any]] = {
            "budget": {
                "max_drop": self.max_drop,
                "metric": self.metric,
                "kind": "relative" if self.relative else None,
                "confidence": self.confidence,
            },
            "weights": {
                "bits": None if self.bits is None else parse_bits(self.bits),
                "rounding": self.rounding,
                "granularity": self.granularity,
            },
            "activations": {
                "bits": None
                if self.activation_bits is None
                else parse_bits(self.activation_bits, option="--activation-bits")
            },
            "search": {"deadline_seconds": self.deadline},
            "layers": {name: {"keep": True} for name in self.keep or ()},
        }
        for name, members in given.items():
            members = {member: value for member, value in members.items() if value is not None}
            if members:
                body[name] = {**(body.get(name) or {}), **members}
        for name, value in (("objective", self.objective), ("seed", self.seed)):
            if value is not None:
                body[name] = value
        return body


def parse_bits(text: str, option: str = "--bits") -> list[int]:
    """Widths from text like `2-8`, `2,4,8` or `2-4,8`.

    Raises:
        Refused: the text is neither.
    """
    widths: list[int] = []
    try:
        for part in text.split(","):
            low, _, high = part.partition("-")
            widths.extend(range(int(low), int(high or low) + 1))
    except ValueError:
        widths = []
    if not widths:
        raise Refused(f"{option} takes widths like 2-8 or 2,4,8, got {text!r}")
    return widths


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise Refused(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise Refused(f"{path} must hold a JSON object, got {type(value).__name__}")
    return value
