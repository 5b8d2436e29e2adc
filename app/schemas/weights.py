"""What the weights of a job may get and how they are rounded: the member `weights` of a request."""

from __future__ import annotations

import json
import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from app.schemas.strict import Strict, refuse

ALL_WIDTHS = (2, 3, 4, 5, 6, 7, 8)
WIDTHS_OF_TARGETS = {"integer-w8-a8": (8,), "integer-w4w8-a8": (4, 8), "integer-w2w4w8-a4a8": (2, 4, 8)}
"""Widths of weights by target, of those that do not have all of them."""


def sorted_once(bits: tuple[int, ...]) -> tuple[int, ...]:
    """Widths in ascending order, each once; none at all are refused."""
    # Not as a constraint of the field: pydantic would then also call a list too short whose items are all refused.
    if not bits:
        refuse("request_invalid", "no width is left; name at least one from 2 to 8")
    return tuple(sorted(set(bits)))


_WEIGHT_FORMAT = re.compile(
    r"float16|int[2-8]/(channel|tensor|block(16|32|64|128|256))(/asymmetric)?"
    r"|codebook[2-4]/channel(/outliers([1-9][0-9]?|1[0-9][0-9]|200))?|(power|hadamard)[2-8]/channel|coded(1\.[2-9]|[23]\.[0-9]|4\.0)/tensor"
)


def _weight_format(name: str) -> str:
    if not _WEIGHT_FORMAT.fullmatch(name):
        refuse(
            "request_invalid",
            f"no format of weights is called {name!r}; expected a name such as int4/channel, int8/tensor, int4/block32 "
            "(16, 32, 64, 128 or 256), int4/channel/asymmetric, float16, codebook3/channel (2 to 4 bits), "
            "codebook3/channel/outliers45 (of 10,000 weights, at most 200), power4/channel, hadamard4/channel or "
            "coded2.3/tensor (1.2 to 4.0 bits)",
        )
    return name


def width_of(name: str) -> float:
    """The bits of the format of weights called `name`."""
    digits = re.search(r"\d+(\.\d)?", name)
    if digits is None:
        raise ValueError(f"{name} is not a format of weights")
    return float(digits.group())


def _named_once(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        refuse("request_invalid", "no format is left; name at least one, such as int4/channel")
    return tuple(sorted(set(names), key=lambda name: (width_of(name), name)))


Bits = Annotated[int, Field(ge=2, le=8)]
FormatList = Annotated[
    tuple[Annotated[str, AfterValidator(_weight_format)], ...], Field(max_length=64), AfterValidator(_named_once)
]
BitsList = Annotated[tuple[Bits, ...], AfterValidator(sorted_once)]

Granularity = Literal["channel", "tensor", "block"]
Rounding = Literal["nearest", "gptq"]

OF_INTEGERS = ("bits", "granularity", "block_size", "symmetric")
"""Fields of `weights` that its `formats` replaces."""

OF_CANDIDATES = (*OF_INTEGERS, "formats")
"""Fields of `weights` that say what a weight may get, which a plan has decided."""


class Weights(Strict):
    bits: BitsList | None = Field(
        default=None,
        description="Widths of integers that a weight may get; null: all that the target has, and coded formats where "
        "they make the file smaller and nothing else of weights says what shares a scale.",
    )
    granularity: Granularity = Field(
        default="channel", description="What shares one scale; block: block_size weights that one output sums over."
    )
    block_size: Literal[16, 32, 64, 128, 256] = 32
    symmetric: bool = Field(default=True, description="false: integers have a zero point for every scale.")
    formats: FormatList | None = Field(
        default=None,
        description="Every format that a weight may get, by name, in place of the four fields above: int4/channel, "
        "int8/tensor, int4/block32, int4/channel/asymmetric, float16, codebook3/channel, codebook3/channel/outliers45, "
        "power4/channel, hadamard4/channel, coded2.3/tensor.",
    )
    rounding: Rounding = "gptq"
    refinement: Literal["auto", "none", "sequential"] = Field(
        default="auto",
        description="How the weights of a whole plan are rounded anew before it is measured: sequential, each layer "
        "for the inputs that the quantized layers before it give; auto: sequential after gptq, none after nearest.",
    )
    leftovers: Literal["float16", "float32"] = Field(
        default="float16",
        description="How floats that are not weights of a layer are stored: biases and parameters of normalisations.",
    )
    requantize: bool = Field(
        default=False,
        description="true: weights that the uploaded file has in codes of at most 16 bits are planned anew; false: "
        "they stay as they are.",
    )

    @model_validator(mode="after")
    def _described_once(self) -> Self:
        # by value, not by what was given: a stored request gives every field
        fields = {name: type(self).model_fields[name].default for name in OF_INTEGERS}
        given = [name for name, default in fields.items() if getattr(self, name) != default]
        if self.formats is not None and given:
            refuse(
                "request_invalid",
                f"weights.formats names every format, and weights.{given[0]} describes them another way; leave "
                f"{given[0]} at {json.dumps(fields[given[0]])}, or formats null",
            )
        if self.granularity != "block" and "block_size" in given:
            refuse(
                "request_invalid",
                f"weights.block_size is for the granularity block, got {self.granularity}; leave it out, or set "
                'weights.granularity to "block"',
            )
        return self

    def widths(self, target: str) -> tuple[int, ...]:
        """The widths of integers that a weight may get on this target, where no formats are named."""
        return self.bits or WIDTHS_OF_TARGETS.get(target, ALL_WIDTHS)

    def widest(self, target: str) -> float:
        """The most bits that a weight may get."""
        return max(self.widths(target) if self.formats is None else map(width_of, self.formats))

    @property
    def says_nothing(self) -> bool:
        """Whether what a weight may get is left to the job."""
        fields = type(self).model_fields
        return all(getattr(self, name) == fields[name].default for name in OF_CANDIDATES)
