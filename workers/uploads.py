"""Uploads that this worker has fetched already: another job on a network, or help with one, does not fetch it again."""

from __future__ import annotations

import logging
import shutil
from collections import OrderedDict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from app.store.temporary import work_folder

logger = logging.getLogger(__name__)

LIMIT_BYTES = 8 << 30


class Uploads:
    """Files by project and digest, the least recently used of which go when there are too many.

    They lie where no child can write; a job gets a copy.

    Args:
        tmp_dir: where the files lie as long as this process lives.
        limit_bytes: of all files together; one that is larger is not kept.
    """

    def __init__(self, tmp_dir: Path, limit_bytes: int = LIMIT_BYTES) -> None:
        self._stack = ExitStack()
        self._folder = self._stack.enter_context(work_folder(tmp_dir))
        self._limit = limit_bytes
        self._sizes = OrderedDict[Path, int]()

    def copy(self, project_id: str, digest: str, fetch: Callable[[Path], object], to: Path) -> Path:
        """Put the upload with this digest to the new file `to`; `fetch` brings it to a path if it is not here.

        Raises: what `fetch` raises.
        """
        kept = self._folder / f"{project_id}-{digest}"
        if kept in self._sizes:
            self._sizes.move_to_end(kept)
            shutil.copyfile(kept, to)
            return to
        fetch(to)
        size = to.stat().st_size
        if size <= self._limit:
            try:
                shutil.copyfile(to, kept)
            except OSError as error:  # a full disk: the job goes on, and another fetches again
                logger.warning("an upload of %d bytes is not kept here: %s", size, error)
                kept.unlink(missing_ok=True)
            else:
                self._sizes[kept] = size
                self._make_room()
        return to

    def close(self) -> None:
        """Remove all."""
        self._stack.close()

    def _make_room(self) -> None:
        while sum(self._sizes.values()) > self._limit:
            oldest, _ = self._sizes.popitem(last=False)
            oldest.unlink()
