"""Number formats as value objects.

A format says how one weight or activation is represented; it knows nothing of a particular one. Formats compare by
value and have a stable name, which is how plans, tables and keys refer to them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

MIN_BITS = 2
MAX_BITS = 8
ACTIVATION_BITS = (4, 8, 16)


class Granularity(StrEnum):
    """How many weights share one scale."""

    TENSOR = "tensor"
    CHANNEL = "channel"


@dataclass(frozen=True, slots=True, order=True)
class IntegerFormat:
    """Symmetric integers of `bits` bits (2 to 8): `value = scale * code`, zero point 0.

    Codes lie in `[-2**(bits-1), 2**(bits-1) - 1]`. The scale may be negative, so that the one code more on the
    negative side can serve either tail of the weight.
    """

    bits: int
    granularity: Granularity = Granularity.CHANNEL

    kind: ClassVar[str] = "int"

    def __post_init__(self) -> None:
        if not MIN_BITS <= self.bits <= MAX_BITS:
            raise ValueError(f"bits must be {MIN_BITS} to {MAX_BITS}, got {self.bits}")
        object.__setattr__(self, "granularity", Granularity(self.granularity))

    @property
    def name(self) -> str:
        """`int4/channel`: unique, stable, and what `parse_format` reads."""
        return f"int{self.bits}/{self.granularity}"

    @property
    def lowest_code(self) -> int:
        return -(1 << (self.bits - 1))

    @property
    def highest_code(self) -> int:
        return (1 << (self.bits - 1)) - 1


@dataclass(frozen=True, slots=True, order=True)
class FloatFormat:
    """The weight as it came: IEEE float of 32 bits."""

    bits: ClassVar[int] = 32
    kind: ClassVar[str] = "float"

    @property
    def name(self) -> str:
        return "float32"


@dataclass(frozen=True, slots=True, order=True)
class UnsignedFormat:
    """Asymmetric integers of an activation tensor, 4, 8 or 16 bits: `value = scale * (code - zero_point)`.

    Codes lie in `[0, 2**bits - 1]`, and so does the zero point: 0 is always a value of the format.
    """

    bits: int

    kind: ClassVar[str] = "uint"
    granularity: ClassVar[Granularity] = Granularity.TENSOR

    def __post_init__(self) -> None:
        if self.bits not in ACTIVATION_BITS:
            raise ValueError(f"bits of an activation must be one of {ACTIVATION_BITS}, got {self.bits}")

    @property
    def name(self) -> str:
        """`uint8/tensor`: unique, stable, and what `parse_format` reads."""
        return f"uint{self.bits}/{self.granularity}"

    @property
    def highest_code(self) -> int:
        return (1 << self.bits) - 1


Format = IntegerFormat | FloatFormat | UnsignedFormat


def parse_format(name: str) -> Format:
    """The format called `name`, the inverse of `Format.name`.

    Raises:
        ValueError: no format has this name.
    """
    if name == "float32":
        return FloatFormat()
    base, _, granularity = name.partition("/")
    if base.startswith("int") and base[3:].isdigit() and granularity in set(Granularity):
        return IntegerFormat(int(base[3:]), Granularity(granularity))
    if base.startswith("uint") and base[4:].isdigit() and granularity == Granularity.TENSOR:
        return UnsignedFormat(int(base[4:]))
    raise ValueError(f"no format is called {name!r}; expected float32 or e.g. int4/channel, int8/tensor, uint8/tensor")
