"""Folders and files that no other user of the machine may read: models and samples lie in them."""

from __future__ import annotations

import os
from pathlib import Path


def private_folder(path: Path) -> Path:
    """Make the folder `path`, and every folder above it that is missing, with mode 0700; return it.

    A folder that is there keeps its rights: whoever made it has decided about them.
    """
    # `Path.mkdir(parents=True)` gives its mode to the last folder only.
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(mode=0o700, exist_ok=True)
    path.mkdir(exist_ok=True)  # an error if it is a file
    return path


def private_file(path: Path) -> None:
    """Make the empty file `path` with mode 0600, in a private folder; leave a file with contents unchanged."""
    private_folder(path.parent)
    # A database that has contents is not even opened: closing it would drop the locks of SQLite in this process.
    if path.exists() and path.stat().st_size > 0:
        return
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    os.fchmod(descriptor, 0o600)
    os.close(descriptor)
