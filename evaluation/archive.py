"""Files of arrays that anybody may have sent: what they are asked, whatever their form, and what bounds them.

Headers come first; nothing is expanded before its size is bounded; types are numbers alone. `evaluation.forms` has a
reader for each form.
"""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BufferedReader, FileIO
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from evaluation.errors import DatasetInvalid, DatasetTooLarge

INDEX_BYTES = 1 << 20
MOST_ARRAYS = 64
# Integers, booleans, and floats of 16, 32 and 64 bits; never objects, strings or records.
_KINDS = frozenset({"b", "i", "u", "f"})
_MOST_DIMENSIONS = 32
# Expanded bytes per byte of the file, counted once the arrays exceed `_RATIO_FROM_BYTES`: constant masks and labels
# compress a thousandfold and harm nobody while they are small.
_MOST_RATIO = 100
_RATIO_FROM_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class ArrayHeader:
    """What an array says of itself before its data are read.

    Raises:
        DatasetInvalid: a type that is not taken, or a shape that no array has.
    """

    name: str
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.dtype.kind not in _KINDS or self.dtype.itemsize > 8:
            raise DatasetInvalid(
                f"array {self.name!r} has the type {str(self.dtype)[:60]}; expected floats (16, 32 or 64 bits), "
                "integers or booleans: convert it with .astype before saving"
            )
        if len(self.shape) > _MOST_DIMENSIONS or any(length < 0 for length in self.shape):
            raise DatasetInvalid(f"array {self.name!r} has an impossible shape {self.shape[:8]}; save it again")

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class Archive(ABC):
    """An open file of arrays whose headers have been read and checked. Use it as a context manager.

    Opening one raises:
        DatasetInvalid: damaged, or an array of a type that is not taken.
        DatasetTooLarge: more arrays, bytes or compression than is allowed.
    """

    form: ClassVar[str]
    """What the form is called."""
    headers: Mapping[str, ArrayHeader]

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Close the file."""

    @abstractmethod
    def read(self, name: str) -> NDArray[np.generic]:
        """The array `name`.

        Raises:
            DatasetInvalid: its data are damaged.
        """

    @abstractmethod
    def first(self, name: str, count: int) -> NDArray[np.generic]:
        """The first `count` samples of the array `name`, without reading much further where its form allows that.

        Raises:
            DatasetInvalid: its data are damaged.
        """


class BoundedFile(BufferedReader):
    """A file that refuses to hand out more than `most` bytes at once, while `most` is set.

    Args:
        raw: the file.
        refusal: the error for so many bytes that are more than so many.
    """

    def __init__(self, raw: FileIO, refusal: Callable[[int, int], Exception]) -> None:
        super().__init__(raw)
        self.most: int | None = None
        self._refusal = refusal

    def read(self, size: int | None = -1, /) -> bytes:
        if self.most is not None:
            rest = os.fstat(self.fileno()).st_size - self.tell()
            wanted = rest if size is None or size < 0 else min(size, rest)
            if wanted > self.most:
                raise self._refusal(wanted, self.most)
        return super().read(size)


def check_count(count: int, form: str) -> None:
    """Refuse a file without arrays, or with more than a network has inputs.

    Raises:
        DatasetInvalid, DatasetTooLarge.
    """
    if count == 0:
        raise DatasetInvalid(f"the {form} is empty; expected an array for each input of the network")
    if count > MOST_ARRAYS:
        raise DatasetTooLarge(f"the {form} holds {count:,} arrays, at most {MOST_ARRAYS} are allowed")


def check_size(total: int, file_bytes: int, max_bytes: int, form: str) -> None:
    """Refuse arrays of `total` bytes together, expanded, that are too many, or too many for a file of that size.

    Raises:
        DatasetTooLarge.
    """
    if total > max_bytes:
        raise DatasetTooLarge(
            f"the arrays take {total:,} bytes, at most {max_bytes:,} are allowed: send fewer samples "
            "(a few thousand are plenty), or ask the operator of this service for more"
        )
    if total > _RATIO_FROM_BYTES and total > _MOST_RATIO * file_bytes:
        raise DatasetTooLarge(
            f"the {form} of {file_bytes:,} bytes expands to {total:,}, {total / max(file_bytes, 1):.0f} times as much; "
            f"at most {_MOST_RATIO} times are allowed: save it uncompressed, e.g. with numpy.savez"
        )


def reason(error: BaseException) -> str:
    """What a reader says of a damaged file, in one short line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
