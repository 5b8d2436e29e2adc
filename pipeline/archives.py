"""Models that are several files: in a zip archive, or in a folder; put together into one before anything reads them.

An archive holds one .onnx file, and beside it (in the same folder of the archive) the files that its tensors name.
Nothing is unpacked under a name of the archive's choice.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from evaluation.archive import INDEX_BYTES, BoundedFile
from network.admission import AdmissionLimits, parsed
from network.errors import ExternalData, ModelTooLarge, NetworkError, NotOnnx, listing
from network.external_data import embedded, locations

_MAGIC = b"PK\x03\x04"
_MODEL = ".onnx"
_BY_THE_SYSTEM = ("__MACOSX/", ".DS_Store")  # what a desktop adds
_ENCRYPTED = 1


def is_archive(path: Path) -> bool:
    """Whether the file begins as a zip archive does.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def unpacked(path: Path, target: Path) -> Path:
    """The model in the archive at `path`, written to `target` as one file.

    Raises:
        NotOnnx: there is no .onnx file in it, or the archive is damaged.
        ExternalData: several .onnx files, two files of one name, or data that are missing.
        ModelTooLarge: it expands to more than a model may have.
        NetworkError: what else `network.external_data.embedded` raises.
    """
    limits = AdmissionLimits()
    with _archive(path) as archive:
        members = _members(archive, limits.max_model_bytes)
        model = _model_name(members)
        folder = model[: model.rfind("/") + 1]
        beside = {
            name.removeprefix(folder): info
            for name, info in members.items()
            if name.startswith(folder) and name != model
        }
        together = embedded(
            archive.read(members[model]),
            {name: info.file_size for name, info in beside.items()},
            lambda name: archive.read(beside[name]),
            limits,
        )
        target.write_bytes(together.SerializeToString())
    return target


def self_contained(path: Path) -> bytes | None:
    """The model at `path` as one file, with the data files that lie beside it; None where it is one already.

    Raises:
        OSError: it cannot be read.
        ExternalData: data files are missing, cut off, or lie elsewhere.
        ModelTooLarge: together they are too large for one file.
    """
    data, limits = path.read_bytes(), AdmissionLimits()
    try:
        names = locations(parsed(data, limits))
    except ExternalData:
        raise
    except NetworkError:  # the job says what is wrong with it
        return None
    if not names:
        return None
    sizes = {name: (path.parent / name).stat().st_size for name in names if (path.parent / name).is_file()}
    together = embedded(data, sizes, lambda name: (path.parent / name).read_bytes(), limits)
    return bytes(together.SerializeToString())


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """What zipfile and zlib raise on damaged archives, as our own errors."""
    with BoundedFile(FileIO(path), _index_too_large) as file:
        try:
            file.most = INDEX_BYTES
            with zipfile.ZipFile(file) as archive:
                file.most = None
                yield archive
        except NetworkError:
            raise
        except MemoryError as error:
            raise ModelTooLarge("unpacking the model takes more memory than this process may use") from error
        except (
            zipfile.BadZipFile,
            zlib.error,
            EOFError,
            LookupError,
            NotImplementedError,
            OSError,  # an offset that points before the file
            OverflowError,
            RuntimeError,
            ValueError,
        ) as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise NotOnnx(
                f"the archive cannot be read: {reason}; upload the .onnx file, or pack it and its data files again"
            ) from error


def _index_too_large(size: int, most: int) -> ModelTooLarge:
    return ModelTooLarge(
        f"the index of the archive takes {size:,} bytes, at most {most:,} are allowed: pack only the .onnx file and "
        "its data"
    )


def _members(archive: zipfile.ZipFile, most: int) -> dict[str, zipfile.ZipInfo]:
    """The files by name; a member never yields more than it declares."""
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        if info.is_dir() or info.filename.startswith(_BY_THE_SYSTEM) or info.filename.endswith(_BY_THE_SYSTEM):
            continue
        if info.filename in members:
            raise ExternalData(f"the archive holds two files {info.filename[:80]!r}; pack each once")
        if info.flag_bits & _ENCRYPTED:
            raise NotOnnx(f"{info.filename[:80]!r} in the archive is encrypted; pack it without a password")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others choose their own memory
            raise NotOnnx(f"{info.filename[:80]!r} is compressed in an unusual way; pack it as zip programs usually do")
        members[info.filename] = info
    total = sum(info.file_size for info in members.values())
    if total > most:
        raise ModelTooLarge(f"the archive expands to {total:,} bytes, at most {most:,} are allowed")
    return members


def _model_name(members: dict[str, zipfile.ZipInfo]) -> str:
    models = [name for name in members if name.endswith(_MODEL)]
    if not models:
        raise NotOnnx(
            "the model is not ONNX: got a zip archive without an .onnx file (a PyTorch checkpoint or an .npz?); upload "
            "the .onnx file, alone or packed with its data files"
        )
    if len(models) > 1:
        raise ExternalData(f"the archive holds {len(models)} models: {listing(models)}; pack the one that is meant")
    return models[0]
