"""Folders for work in progress that disappear with the process that made them, even after `kill -9`.

Each folder has a lock file next to it, locked as long as its maker lives: the kernel lets go of the lock when the
process ends, however it ends, so that whoever gets the lock may remove the folder. Times or process numbers would
only be guesses about that.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
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
            if not _lock(lock):
                continue  # a sweep came between the making and the locking of the file, and removes it
            folder = lock_path.with_suffix("")
            private_folder(folder)
            try:
                yield folder
            finally:
                _remove(lock_path)
            return


def sweep(tmp_dir: Path) -> int:
    """Remove the folders whose makers are gone; returns how many."""
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
    return removed


def spooled(file: BinaryIO, parts: Iterable[bytes]) -> tuple[int, str]:
    """Write `parts` to the file; their size in bytes and their SHA-256."""
    size_bytes, digest = 0, hashlib.sha256()
    for part in parts:
        file.write(part)
        digest.update(part)
        size_bytes += len(part)
    return size_bytes, digest.hexdigest()


def _lock(file: IO[str]) -> bool:
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
