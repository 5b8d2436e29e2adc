"""From names of classes to labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bitbudget_client.samples.refusal import SamplesRefused, library, listing


def labelled(names: Sequence[str], classes_file: Path | None) -> tuple[Any, tuple[str, ...], str]:
    """Labels int64 `[samples]`, the names of the classes in their order (none where names are numbers), and a note.

    Names that are whole numbers are the labels. Others are numbered as in `classes_file`, else in the order of the
    alphabet.

    Raises:
        SamplesRefused: a name that the file does not have.
    """
    numpy = library("numpy", "numpy")
    different = sorted(set(names))
    if classes_file is None:
        if all(_is_whole(name) for name in different):
            return numpy.asarray([int(float(name)) for name in names], numpy.int64), (), "labels: numbers, as they are"
        order = different
        note = f"labels: {len(order)} classes in the order of the alphabet, {order[0]!r} is 0"
    else:
        order = [line.strip() for line in classes_file.read_text().splitlines() if line.strip()]
        note = f"labels: {len(order)} classes in the order of {classes_file.name}"
        unknown = [name for name in different if name not in order]
        if unknown:
            raise SamplesRefused(
                f"{classes_file.name} does not name the classes {listing(unknown)}; expected a line for each class, in "
                "the order of the network's outputs"
            )
    number = {name: place for place, name in enumerate(order)}
    return numpy.asarray([number[name] for name in names], numpy.int64), tuple(order), note


def _is_whole(text: str) -> bool:
    try:
        return float(text).is_integer()
    except ValueError:
        return False
