"""Number formats as value objects.

A format says how one weight or activation is represented; it knows nothing of a particular one. Formats compare by
value and have a stable name, which is how plans, tables and keys refer to them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

MIN_BITS = 2
MAX_BITS = 8
ACTIVATION_BITS = (4, 8, 16)
MAX_CODEBOOK_BITS = 4
MAX_OUTLIERS = 200
BLOCK_SIZES = (16, 32, 64, 128, 256)
CODED_TENTHS = range(12, 41)
# up to so many tenths of a bit: how many codes are written together, and how high they go
_TUPLES = ((13, 8, 2), (15, 6, 3), (18, 5, 5), (23, 4, 8), (28, 4, 9), (40, 3, 22))


def _check_bits(bits: int) -> None:
    if not MIN_BITS <= bits <= MAX_BITS:
        raise ValueError(f"bits must be {MIN_BITS} to {MAX_BITS}, got {bits}")


class Granularity(StrEnum):
    """How many weights share one scale."""

    TENSOR = "tensor"
    CHANNEL = "channel"
    BLOCK = "block"


@dataclass(frozen=True, slots=True, order=True)
class IntegerFormat:
    """Integers of `bits` bits (2 to 8): `value = scale * (code - zero_point)`, with zero point 0 where `symmetric`.

    Codes and zero points lie in `[-2**(bits-1), 2**(bits-1) - 1]`. The scale may be negative, so that the one code more
    on the negative side can serve either tail of a symmetric weight. `block` is how many weights, neighbours among
    those that one output sums over, share a scale, 0 unless the granularity is `BLOCK`.
    """

    bits: int
    granularity: Granularity = Granularity.CHANNEL
    symmetric: bool = True
    block: int = 0

    kind: ClassVar[str] = "int"

    def __post_init__(self) -> None:
        _check_bits(self.bits)
        object.__setattr__(self, "granularity", Granularity(self.granularity))
        if self.granularity is Granularity.BLOCK and self.block not in BLOCK_SIZES:
            raise ValueError(f"a block has {', '.join(map(str, BLOCK_SIZES))} weights, got {self.block}")
        if self.granularity is not Granularity.BLOCK and self.block:
            raise ValueError(f"a scale per {self.granularity} has no block, got a block of {self.block}")

    @property
    def name(self) -> str:
        """`int4/channel`, `int4/block32/asymmetric`: unique, stable, and what `parse_format` reads."""
        shared = f"{self.granularity}{self.block or ''}"
        return f"int{self.bits}/{shared}" + ("" if self.symmetric else "/asymmetric")

    @property
    def lowest_code(self) -> int:
        return -(1 << (self.bits - 1))

    @property
    def highest_code(self) -> int:
        return (1 << (self.bits - 1)) - 1

    @property
    def has_kernel(self) -> bool:
        """Whether integer kernels take such codes: with one scale per channel or tensor, and no zero point."""
        return self.symmetric and self.granularity is not Granularity.BLOCK


@dataclass(frozen=True, slots=True, order=True)
class FloatFormat:
    """The weight as it came: IEEE float of 32 bits."""

    bits: ClassVar[int] = 32
    kind: ClassVar[str] = "float"
    name: ClassVar[str] = "float32"


@dataclass(frozen=True, slots=True, order=True)
class HalfFormat:
    """IEEE float of 16 bits."""

    bits: ClassVar[int] = 16
    kind: ClassVar[str] = "float"
    name: ClassVar[str] = "float16"


@dataclass(frozen=True, slots=True, order=True)
class CodebookFormat:
    """A table of `2**bits` float16 values (2 to 4 bits) for each output channel; a code is a place in its table.

    `outliers` of 10,000 weights, those that the tables serve worst, are kept in float32 beside (SqueezeLLM, arXiv
    2306.07629, keeps 45).
    """

    bits: int
    outliers: int = 0

    kind: ClassVar[str] = "codebook"

    def __post_init__(self) -> None:
        if not MIN_BITS <= self.bits <= MAX_CODEBOOK_BITS:
            raise ValueError(f"bits of a codebook must be {MIN_BITS} to {MAX_CODEBOOK_BITS}, got {self.bits}")
        if not 0 <= self.outliers <= MAX_OUTLIERS:
            raise ValueError(f"outliers must be 0 to {MAX_OUTLIERS} of 10,000 weights, got {self.outliers}")

    @property
    def name(self) -> str:
        """`codebook3/channel`, `codebook3/channel/outliers45`."""
        return f"codebook{self.bits}/channel" + (f"/outliers{self.outliers}" if self.outliers else "")


@dataclass(frozen=True, slots=True, order=True)
class _ChannelFormat:
    """Codes of 2 to 8 bits with one scale for each output channel."""

    bits: int

    kind: ClassVar[str]
    granularity: ClassVar[Granularity] = Granularity.CHANNEL
    block: ClassVar[int] = 0

    def __post_init__(self) -> None:
        _check_bits(self.bits)

    @property
    def name(self) -> str:
        """`power4/channel`, `hadamard4/channel`."""
        return f"{self.kind}{self.bits}/channel"


class PowerFormat(_ChannelFormat):
    """Integers on a power grid, 2 to 8 bits: `value = scale * sign(code) * |code|**(1/a)`, NUPES, arXiv 2308.05600.

    One scale for each output channel. The exponent `a` belongs to the weight, which stores the grid as a table.
    """

    __slots__ = ()
    kind: ClassVar[str] = "power"


class HadamardFormat(_ChannelFormat):
    """Symmetric integers, one scale per output channel, of the weight rotated by a Hadamard matrix along what an output
    sums over (QuEST, arXiv 2502.05003): the rotation spreads outliers, and unpacking turns it back."""

    __slots__ = ()
    kind: ClassVar[str] = "hadamard"


@dataclass(frozen=True, slots=True, order=True)
class CodedFormat:
    """Integers in an entropy code of `tenths / 10` bits a weight, in the mean and exactly: `value = step * code`, one
    step for the whole weight (`quantization.storage.coded`). Codes go up to `highest_code` in magnitude."""

    tenths: int

    kind: ClassVar[str] = "coded"

    def __post_init__(self) -> None:
        if self.tenths not in CODED_TENTHS:
            low, high = CODED_TENTHS[0] / 10, CODED_TENTHS[-1] / 10
            raise ValueError(f"bits of a coded weight must be {low} to {high} in tenths, got {self.tenths / 10}")

    @property
    def bits(self) -> float:
        return self.tenths / 10

    @property
    def name(self) -> str:
        """`coded2.3/tensor`."""
        return f"coded{self.bits:.1f}/tensor"

    @property
    def tuple_size(self) -> int:
        """So many codes are written together."""
        return self._tuples[0]

    @property
    def highest_code(self) -> int:
        """Some five standard deviations of Gaussian weights, or four."""
        return self._tuples[1]

    @property
    def _tuples(self) -> tuple[int, int]:
        return next((size, highest) for tenths, size, highest in _TUPLES if self.tenths <= tenths)


@dataclass(frozen=True, slots=True, order=True)
class UnsignedFormat:
    """Asymmetric integers of an activation tensor, 4, 8 or 16 bits: `value = scale * (code - zero_point)`.

    Codes lie in `[0, 2**bits - 1]`, and so does the zero point: 0 is always a value of the format.
    """

    bits: int

    kind: ClassVar[str] = "uint"

    def __post_init__(self) -> None:
        if self.bits not in ACTIVATION_BITS:
            raise ValueError(f"bits of an activation must be one of {ACTIVATION_BITS}, got {self.bits}")

    @property
    def name(self) -> str:
        """`uint8/tensor`: unique, stable, and what `parse_format` reads."""
        return f"uint{self.bits}/tensor"

    @property
    def highest_code(self) -> int:
        return (1 << self.bits) - 1


ScaledFormat = IntegerFormat | PowerFormat | HadamardFormat
WeightFormat = IntegerFormat | FloatFormat | HalfFormat | CodebookFormat | PowerFormat | HadamardFormat | CodedFormat
Format = WeightFormat | UnsignedFormat


def parse_format(name: str) -> Format:
    """The format called `name`, the inverse of `Format.name`.

    Raises:
        ValueError: no format has this name.
    """
    if name in _BY_NAME:
        return _BY_NAME[name]
    raise ValueError(
        f"no format is called {name!r}; expected a name such as float32, float16, int4/channel, int8/tensor, "
        "int4/block32, int4/channel/asymmetric, codebook3/channel/outliers45, power4/channel, hadamard4/channel, "
        "coded2.3/tensor, or for an activation uint8/tensor"
    )


def weight_format(name: str) -> WeightFormat:
    """The format of weights called `name`.

    Raises:
        ValueError: no format of weights has this name.
    """
    format_ = parse_format(name)
    if isinstance(format_, UnsignedFormat):
        raise ValueError(f"{name} is a format of activations, and weights have none of these")
    return format_


def _all_formats() -> Iterator[Format]:
    yield FloatFormat()
    yield HalfFormat()
    yield from (UnsignedFormat(bits) for bits in ACTIVATION_BITS)
    for bits in range(MIN_BITS, MAX_BITS + 1):
        yield PowerFormat(bits)
        yield HadamardFormat(bits)
        for symmetric in (True, False):
            yield IntegerFormat(bits, Granularity.TENSOR, symmetric)
            yield IntegerFormat(bits, Granularity.CHANNEL, symmetric)
            yield from (IntegerFormat(bits, Granularity.BLOCK, symmetric, block) for block in BLOCK_SIZES)
    yield from (CodedFormat(tenths) for tenths in CODED_TENTHS)
    for bits in range(MIN_BITS, MAX_CODEBOOK_BITS + 1):
        yield from (CodebookFormat(bits, outliers) for outliers in range(MAX_OUTLIERS + 1))


_BY_NAME = {format_.name: format_ for format_ in _all_formats()}
