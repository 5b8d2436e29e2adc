"""Folders for work in progress that disappear with the process that made them, even after `kill -9`.

Each folder has a lock file next to it, locked as long as its maker lives: the kernel lets go of the lock when the
process ends, however it ends, so that whoever gets the lock may remove the folder. Times or process numbers would
only be guesses about that. The folder itself is locked too, for the case that somebody else, who tidies up by age, has
removed the lock file.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, BinaryIO

from app.store.private import private_folder

logger = logging.getLogger(__name__)

PREFIX = "work-"


@contextmanager
def work_folder(tmp_dir: Path) -> Iterator[Path]:
    """A new empty folder under `tmp_dir`, removed at the end of the block, or by `sweep` if it never comes there."""
    private_folder(tmp_dir)
    while True:
        lock_path = tmp_dir / f"{PREFIX}{uuid.uuid4().hex}.lock"
        with lock_path.open("x") as lock:
            if not (_lock(lock) and _is_at(lock, lock_path)):
                continue  # a sweep came between the making and the locking of the file, and removes it
            folder = lock_path.with_suffix("")
            private_folder(folder)
            try:
                with _held(folder):
                    yield folder
            finally:
                _remove(lock_path)
            return


def sweep(tmp_dir: Path) -> int:
    """Remove the folders whose makers are gone; returns how many. Any number of processes may do so at once."""
    removed = 0
    for lock_path in tmp_dir.glob(f"{PREFIX}*.lock"):
        try:
            with lock_path.open("r+") as lock:
                if _lock(lock):
                    _remove(lock_path)
                    removed += 1
        except FileNotFoundError:
            continue  # its maker finished just now
        except (OSError, RecursionError) as error:
            # It may be another user's, or made by a job so that nobody can remove it: the others go nevertheless.
            logger.warning("the work folder %s cannot be removed: %s", lock_path.with_suffix(""), error)
    return removed + _sweep_without_lock_files(tmp_dir)


def _sweep_without_lock_files(tmp_dir: Path) -> int:
    removed = 0
    for folder in tmp_dir.glob(f"{PREFIX}*"):
        if folder.suffix == ".lock" or folder.with_suffix(".lock").exists():
            continue
        try:
            # Not through a link: what it leads to is nobody's work folder.
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if _lock(descriptor):
                    _remove(folder.with_suffix(".lock"))
                    removed += 1
            finally:
                os.close(descriptor)
        except FileNotFoundError:
            continue  # its maker finished just now
        except (OSError, RecursionError) as error:
            logger.warning("the work folder %s cannot be removed: %s", folder, error)
    return removed


def spooled(file: BinaryIO, parts: Iterable[bytes]) -> tuple[int, str]:
    """Write `parts` to the file; their size in bytes and their SHA-256."""
    size_bytes, digest = 0, hashlib.sha256()
    for part in parts:
        file.write(part)
        digest.update(part)
        size_bytes += len(part)
    return size_bytes, digest.hexdigest()


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Lock the folder itself, on file systems where folders can be locked."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):
            _lock(descriptor)
        yield
    finally:
        os.close(descriptor)


def _is_at(file: IO[str], path: Path) -> bool:
    """Whether the open file is still the one at this path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _lock(file: IO[str] | int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _allow(folder: Path) -> None:
    """Give this user all rights on the folders in it, which a job may have taken away. No link is followed."""
    for path, folders, _ in os.walk(folder, onerror=None):
        for name in folders:
            inner = os.path.join(path, name)
            if not os.path.islink(inner):
                os.chmod(inner, 0o700)


def _remove(lock_path: Path) -> None:
    # The folder first: as long as it is there, so is the lock file by which `sweep` finds it.
    folder = lock_path.with_suffix("")
    if folder.exists():
        _allow(folder)
        shutil.rmtree(folder)
    lock_path.unlink(missing_ok=True)
