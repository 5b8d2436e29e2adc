"""Samples as people have them: folders of images or arrays, tables, texts; made into arrays on the user's machine.

`read` gives arrays, to be given to a client as `data`; `prepared` a file that the service takes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from bitbudget_client.samples import folders, images, tables
from bitbudget_client.samples.options import SampleOptions
from bitbudget_client.samples.prepared import PreparedSamples
from bitbudget_client.samples.refusal import SamplesRefused

__all__ = ["PreparedSamples", "SampleOptions", "SamplesRefused", "prepare", "prepared", "read"]


def read(path: str | os.PathLike[str], **options: Any) -> dict[str, Any]:
    """The arrays that the files at `path` make, by the names of the inputs, and `labels` or `targets` if there are any.

    Args:
        path: a folder of images, with a folder for each class or without; a folder of .npy files; a .csv, .tsv, .jsonl
            or .txt file.
        options: the members of `SampleOptions`, which say how they are prepared.

    Raises:
        SamplesRefused: they cannot be made into samples so; says what is to be stated.
    """
    return prepare(Path(path), SampleOptions(**options)).loaded()


def prepared(path: str | os.PathLike[str], target: str | os.PathLike[str], **options: Any) -> Path:
    """A file that the service takes: `path` itself if it is one, else the new file `target`.

    Raises:
        SamplesRefused: as `read`.
    """
    path, chosen = Path(path), SampleOptions(**options)
    if path.is_file() and path.suffix.lower() not in tables.SUFFIXES:
        return path  # the service looks into it, and knows its form
    return prepare(path, chosen).save(Path(target))


def prepare(path: Path, options: SampleOptions) -> PreparedSamples:
    """What `read` and `prepared` share: arrays that may be made sample by sample, and notes on what was done.

    Raises:
        SamplesRefused: as `read`.
    """
    if path.is_file() and path.suffix.lower() in tables.SUFFIXES:
        made = tables.read_table(path, options)
    elif path.is_dir():
        arrays, pictures = folders.arrays_in(path), images.images_in(path)
        if bool(arrays) == bool(pictures):
            found = "both" if arrays else "neither"
            raise SamplesRefused(f"{path} holds {found} .npy files or images; expected a folder of one of them")
        made = folders.read_folder(path) if arrays else images.read_images(path, options)
    else:
        raise SamplesRefused(
            f"{path} is no folder, and no .csv, .tsv, .jsonl or .txt file; files of arrays are given to the service as "
            "they are"
        )
    return made.limited(options.limit, options.seed)
