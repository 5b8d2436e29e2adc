"""Uploads that this worker has fetched already: another job on a network, or help with one, does not fetch it again."""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from app.store.temporary import work_folder

logger = logging.getLogger(__name__)

LIMIT_BYTES = 8 << 30
PIECE_BYTES = 1 << 20


class Uploads:
    """Files by project and digest, the least recently used of which go when there are too many.

    They lie where no child can write; a job gets a copy, and nothing is ever read back from there.

    Args:
        tmp_dir: where the files lie as long as this process lives.
        limit_bytes: of all files together; one that is larger is not kept.
    """

    def __init__(self, tmp_dir: Path, limit_bytes: int = LIMIT_BYTES) -> None:
        self._stack = ExitStack()
        self._folder = self._stack.enter_context(work_folder(tmp_dir))
        self._limit = limit_bytes
        self._sizes = OrderedDict[Path, int]()

    def copy(
        self,
        project_id: str,
        digest: str,
        fetch: Callable[[Path], object],
        folder: Path,
        name: str,
        check: Callable[[], None],
    ) -> Path:
        """Put the upload with this digest into `folder` as the new file `name`.

        Args:
            fetch: brings it to a path, if it is not here.
            folder: one that a child can write to, and may have replaced.
            check: called for every piece; what it raises ends the call.

        Raises:
            OSError: there is no room, or the child has put something in the way.
        """
        kept = self._folder / f"{project_id}-{digest}"
        if kept not in self._sizes:
            kept.unlink(missing_ok=True)
            fetch(kept)
            self._sizes[kept] = kept.stat().st_size
        self._sizes.move_to_end(kept)
        _place(kept, folder, name, check)
        while sum(self._sizes.values()) > self._limit:
            oldest, _ = self._sizes.popitem(last=False)
            oldest.unlink()
        return folder / name

    def close(self) -> None:
        """Remove all."""
        self._stack.close()


def _place(source: Path, folder: Path, name: str, check: Callable[[], None]) -> None:
    """Copy into a folder that somebody else may be changing: no link in it is followed, no file in it is reused."""
    place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        target = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=place)
        with source.open("rb") as reading, os.fdopen(target, "wb") as writing:
            while piece := reading.read(PIECE_BYTES):
                writing.write(piece)
                check()
    finally:
        os.close(place)
