"""Where the results of stages and chunks are kept, by key: a folder, a dictionary, or a database behind a worker."""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Protocol


class Store(Protocol):
    """Bytes by key. A key names all that its bytes depend on, so that whoever writes first is right."""

    def exists(self, key: str) -> bool:
        """Whether something is stored under `key`."""

    def load(self, key: str) -> bytes | None:
        """What is stored under `key`; None if nothing is."""

    def open(self, key: str) -> IO[bytes] | None:
        """What is stored under `key`, as a file of the caller's; None if nothing is."""

    def store(self, key: str, data: bytes) -> bytes:
        """Store `data` unless something is there already; gives what counts, the first that was stored."""

    def store_file(self, key: str, file: IO[bytes]) -> None:
        """Store all of `file` unless something is there already."""

    def drop(self, prefix: str) -> None:
        """Forget all keys that begin with `prefix`."""

    def take(self, key: str) -> bool:
        """Whether the caller is the one to compute `key` now; False while somebody else does, who is alive.

        What is taken is given back by `store`, by `give_back`, and by the end of whoever took it.
        """

    def give_back(self, key: str) -> None:
        """Let somebody else compute `key`, if the caller took it."""


class MemoryStore:
    """Results of this process, gone with it."""

    def __init__(self, results: dict[str, bytes] | None = None) -> None:
        self.results = {} if results is None else results

    def exists(self, key: str) -> bool:
        return key in self.results

    def load(self, key: str) -> bytes | None:
        return self.results.get(key)

    def open(self, key: str) -> IO[bytes] | None:
        return io.BytesIO(self.results[key]) if key in self.results else None

    def store_file(self, key: str, file: IO[bytes]) -> None:
        file.seek(0)
        self.store(key, file.read())

    def store(self, key: str, data: bytes) -> bytes:
        return self.results.setdefault(key, data)

    def drop(self, prefix: str) -> None:
        for key in [key for key in self.results if key.startswith(prefix)]:
            del self.results[key]

    def take(self, key: str) -> bool:  # noqa: ARG002 - nobody else has this dictionary
        return True

    def give_back(self, key: str) -> None:
        """Nobody else waits for it."""


class FolderStore:
    """Results as files below a folder, which is made if need be. Several processes may share it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._taken: dict[str, IO[str]] = {}

    def exists(self, key: str) -> bool:
        return self._path(key).exists()

    def load(self, key: str) -> bytes | None:
        try:
            return self._path(key).read_bytes()
        except FileNotFoundError:
            return None

    def open(self, key: str) -> IO[bytes] | None:
        try:
            return self._path(key).open("rb")
        except FileNotFoundError:
            return None

    def store(self, key: str, data: bytes) -> bytes:
        return data if self._linked(key, io.BytesIO(data)) else self._path(key).read_bytes()

    def store_file(self, key: str, file: IO[bytes]) -> None:
        file.seek(0)
        self._linked(key, file)

    def _linked(self, key: str, source: IO[bytes]) -> bool:
        """Store the rest of `source`; False where something is stored already."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        # a file is there whole or not at all, whoever is killed while writing
        with NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
            shutil.copyfileobj(source, file)
        try:
            os.link(file.name, path)
        except FileExistsError:
            return False
        except FileNotFoundError:  # dropped meanwhile: nobody asks for it any more
            return True
        finally:
            Path(file.name).unlink(missing_ok=True)
            self.give_back(key)
        return True

    def drop(self, prefix: str) -> None:
        folder = self._path(prefix + "x").parent
        for key in [key for key in self._taken if key.startswith(prefix)]:
            self.give_back(key)
        for path in list(folder.iterdir()) if folder.is_dir() else ():
            path.unlink(missing_ok=True)

    def take(self, key: str) -> bool:
        if key in self._taken:
            return True
        lock = self._lock(key)
        while True:
            lock.parent.mkdir(parents=True, exist_ok=True)
            file = lock.open("w")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel lets go when this process ends
            except BlockingIOError:
                file.close()
                return False
            try:
                if os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                    self._taken[key] = file
                    return True
            except FileNotFoundError:
                pass
            file.close()  # who had it let go, and removed the file, after it was opened here

    def give_back(self, key: str) -> None:
        file = self._taken.pop(key, None)
        if file is not None:
            self._lock(key).unlink(missing_ok=True)
            file.close()

    def _lock(self, key: str) -> Path:
        path = self._path(key)
        return path.with_name(f".{path.name}.lock")

    def _path(self, key: str) -> Path:
        """Chunks of a stage have a folder of their own, beside the file of the stage."""
        folder, _, name = key.rpartition("/")
        return self._folder / (f"{folder}.parts" if folder else "") / hashlib.sha256(name.encode()).hexdigest()[:40]


def file_of(parts: Iterable[bytes]) -> IO[bytes]:
    """A file with these bytes one after another, which the caller closes."""
    file = tempfile.TemporaryFile()  # noqa: SIM115
    file.writelines(parts)
    file.seek(0)
    return file


def pieces_of(file: IO[bytes], piece_bytes: int) -> tuple[Iterator[bytes], int]:
    """All of a file in pieces, and how many bytes these are."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    return iter(partial(file.read, piece_bytes), b""), size
