"""The files that the tensors of an .onnx file lie in, locations beside it and packed with it for the upload."""

from __future__ import annotations

import mmap
import re
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath

from bitbudget_client.packing import pack

# A StringStringEntryProto as protobuf writes it: the key "location", and a value of less than 2 KiB.
_LOCATION = re.compile(rb"\x0a\x08location\x12([\x01-\x7f]|[\x80-\xff][\x01-\x0f])", re.DOTALL)


@contextmanager
def with_data_files(path: Path) -> Iterator[Path]:
    """The file itself, or a zip archive of it and the data files beside it that it names.

    A file that is missing is for the service to name.
    """
    names = [name for name in _locations(path) if (path.parent / name).is_file()]
    if not names:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="bitbudget-") as folder:
        packed = Path(folder) / f"{path.name}.zip"
        with ExitStack() as opened, packed.open("wb") as target:
            model, *data = (opened.enter_context(file.open("rb")) for file in (path, *(path.parent / n for n in names)))
            pack(target, model, dict(zip(names, data, strict=True)))
        yield packed


def _locations(path: Path) -> list[str]:
    """Names of files in the folder of the model, or below it."""
    if path.stat().st_size == 0:
        return []
    locations: dict[str, None] = {}
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for match in _LOCATION.finditer(data):
            size = match[1][0] if len(match[1]) == 1 else (match[1][0] & 0x7F) | match[1][1] << 7
            name = str(PurePosixPath(data[match.end() : match.end() + size].decode(errors="replace")))
            if not name.startswith("/") and ".." not in name.split("/") and "\0" not in name:
                locations[name] = None
    return list(locations)
