"""Samples that were made of files: arrays, some of them made row by row, and what was done in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZipFile, ZipInfo

from bitbudget_client.samples.refusal import library


@dataclass(frozen=True)
class Rows:
    """An array whose samples are made one by one, so that a folder of images need not fit into memory.

    `row(place)` gives the sample at a place, of the shape `shape[1:]`.
    """

    shape: tuple[int, ...]
    dtype: str
    row: Callable[[int], Any]

    def __len__(self) -> int:
        return self.shape[0]

    def take(self, places: Sequence[int]) -> Rows:
        """The samples at these places."""
        return Rows((len(places), *self.shape[1:]), self.dtype, lambda place: self.row(places[place]))

    def array(self) -> Any:
        """All of them."""
        numpy = library("numpy", "numpy")
        whole = numpy.empty(self.shape, self.dtype)
        for place in range(len(self)):
            whole[place] = self.row(place)
        return whole


@dataclass(frozen=True)
class PreparedSamples:
    """Arrays by name, `classes` in the order of the labels where these had names, and `notes` on what was done."""

    arrays: Mapping[str, Any]
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def limited(self, limit: int | None, seed: int) -> PreparedSamples:
        """At most so many samples, chosen at random by the seed and kept in their order."""
        count = max((len(array) for array in self.arrays.values()), default=0)
        if limit is None or limit >= count:
            return self
        numpy = library("numpy", "numpy")
        places = numpy.sort(numpy.random.default_rng(seed).permutation(count)[:limit])
        arrays = {
            name: array.take(places) if isinstance(array, Rows) else array[places]
            for name, array in self.arrays.items()
        }
        return PreparedSamples(arrays, self.classes, (*self.notes, f"{limit:,} of {count:,} samples, by seed {seed}"))

    def loaded(self) -> dict[str, Any]:
        """The arrays in memory."""
        return {name: array.array() if isinstance(array, Rows) else array for name, array in self.arrays.items()}

    def save(self, path: Path) -> Path:
        """Write them as an .npz, sample by sample where they are made so."""
        numpy = library("numpy", "numpy")
        with ZipFile(path, "w") as archive:  # numpy.savez takes no array called "file", and wants all in memory
            for name, array in self.arrays.items():
                with archive.open(ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                    if not isinstance(array, Rows):
                        numpy.lib.format.write_array(member, numpy.asarray(array), allow_pickle=False)
                        continue
                    descr = numpy.lib.format.dtype_to_descr(numpy.dtype(array.dtype))
                    header = {"descr": descr, "fortran_order": False, "shape": array.shape}
                    numpy.lib.format.write_array_header_1_0(member, header)
                    for place in range(len(array)):
                        member.write(numpy.ascontiguousarray(array.row(place), array.dtype).tobytes())
        return path
