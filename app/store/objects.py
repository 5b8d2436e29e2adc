"""Contents beside the database: files of a folder, or objects of a bucket that speaks the protocol of S3.

A location is one address, such as `s3://bucket/prefix/3f/3fa9…`, under which the parts of one blob lie. It is chosen by
chance and written to the database before anything is stored there, so that whatever lies in the storage has a row.
Parts are single objects of at most 16 MiB, written whole or not at all: an upload in several requests, which S3 offers
for large objects, would leave pieces behind its writer's back that nothing lists and nothing here could remove.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote, urlsplit

from app.store.private import private_folder

if TYPE_CHECKING:
    from obstore.store import S3Config, S3Store

IN_DATABASE = "database"
PART_BYTES = 16 * 1024**2
"""Part of what is stored: another size would need another form of location."""
PIECE_BYTES = 1024**2

_LOCATION = re.compile(r"((?:file|s3)://.*)/([0-9a-f]{2}/[0-9a-f]{32})", re.DOTALL)
_ANSWER_WITHIN = timedelta(minutes=2)
_RETRIES = 5


class StorageUnavailable(RuntimeError):
    """The storage of contents does not answer, or refuses what is asked of it."""


class Storage(Protocol):
    """What holds parts by their names. A part that is not there is a `FileNotFoundError`."""

    def put(self, name: str, data: Sequence[bytes]) -> None:
        """Store a part; when this returns, a loss of power does not lose it."""
        ...

    def read(self, name: str, start: int, stop: int) -> Iterator[bytes]:
        """The bytes from `start` to before `stop` of a part, in pieces of at most 1 MiB."""
        ...

    def remove(self, names: Sequence[str]) -> None:
        """Remove the parts of a blob; those that are not there are no error."""
        ...


class Objects:
    """Where new contents go, and how contents that lie beside the database are reached. Thread-safe.

    Args:
        target: `database`, `file:///FOLDER` or `s3://BUCKET/PREFIX`.
        s3_endpoint: address of a server that is not Amazon's; keys and region come from the AWS_ variables.
    """

    def __init__(self, target: str = IN_DATABASE, s3_endpoint: str | None = None) -> None:
        if target != IN_DATABASE:
            check_target(target)
        self._target = target.rstrip("/")
        self._s3_endpoint = s3_endpoint
        self._storages: dict[str, Storage] = {}

    def new_location(self) -> str | None:
        """Where the next blob goes; None: into the database."""
        if self._target == IN_DATABASE:
            return None
        name = uuid.uuid4().hex
        return f"{self._target}/{name[:2]}/{name}"

    def put(self, location: str, part: int, data: Sequence[bytes]) -> None:
        """Store the part number `part` of the blob at `location`.

        Raises:
            StorageUnavailable: it cannot be written.
        """
        storage, folder = self._at(location)
        storage.put(_part(folder, part), data)

    def read(self, location: str, start: int, stop: int) -> Iterator[bytes]:
        """The bytes from `start` to before `stop` of the blob at `location`, in pieces of at most 1 MiB.

        Raises:
            FileNotFoundError: a part is gone.
            StorageUnavailable: it cannot be read.
        """
        storage, folder = self._at(location)
        for part in range(start // PART_BYTES, -(-stop // PART_BYTES)):
            begin = part * PART_BYTES
            yield from storage.read(_part(folder, part), max(start - begin, 0), min(stop - begin, PART_BYTES))

    def remove(self, location: str, size_bytes: int) -> None:
        """Remove whatever there is of a blob of this size; may be repeated.

        Raises:
            StorageUnavailable: it cannot be removed now.
        """
        storage, folder = self._at(location)
        storage.remove([_part(folder, part) for part in range(-(-size_bytes // PART_BYTES))])

    def _at(self, location: str) -> tuple[Storage, str]:
        parsed = _LOCATION.fullmatch(location)
        if parsed is None:
            raise ValueError(f"{location!r} is not the location of a blob")
        base, folder = parsed.groups()
        if base not in self._storages:
            self._storages[base] = _open(base, self._s3_endpoint)
        return self._storages[base], folder


def check_target(target: str) -> str:
    """The address of a folder or a bucket, as it came.

    Raises:
        ValueError: it is neither.
    """
    parts = urlsplit(target)
    file = parts.scheme == "file" and not parts.netloc and len(parts.path) > 1
    bucket = parts.scheme == "s3" and bool(parts.netloc) and "@" not in parts.netloc
    if not (file or bucket) or parts.query or parts.fragment:
        raise ValueError(f"expected database, file:///FOLDER or s3://BUCKET/PREFIX, got {target!r}")
    return target


def _part(folder: str, number: int) -> str:
    return f"{folder}/{number:05d}"


def _open(base: str, s3_endpoint: str | None) -> Storage:
    address = urlsplit(base)
    if address.scheme == "file":
        return _Folder(Path(unquote(address.path)))
    return _Bucket(address.netloc, address.path.strip("/"), s3_endpoint)


class _Folder:
    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, name: str, data: Sequence[bytes]) -> None:
        path = self._root / name
        private_folder(path.parent)
        with path.open("xb") as file:
            file.writelines(data)
            file.flush()
            os.fsync(file.fileno())
        # The names on the way to the file must last as well.
        for folder in (path.parent, path.parent.parent, self._root):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def read(self, name: str, start: int, stop: int) -> Iterator[bytes]:
        with (self._root / name).open("rb") as file:
            file.seek(start)
            while start < stop and (piece := file.read(min(PIECE_BYTES, stop - start))):
                start += len(piece)
                yield piece

    def remove(self, names: Sequence[str]) -> None:
        for name in names:
            (self._root / name).unlink(missing_ok=True)
        for folder in {(self._root / name).parent for name in names}:
            with suppress(FileNotFoundError):
                folder.rmdir()


class _Bucket:
    def __init__(self, bucket: str, prefix: str, endpoint: str | None) -> None:
        self._store = _s3_store(bucket, prefix, endpoint)

    def put(self, name: str, data: Sequence[bytes]) -> None:
        import obstore

        with _failures_of(name):
            obstore.put(self._store, name, b"".join(data), use_multipart=False)

    def read(self, name: str, start: int, stop: int) -> Iterator[bytes]:
        import obstore

        with _failures_of(name):
            answer = obstore.get(self._store, name, options={"range": (start, stop)})
            for piece in answer.stream(min_chunk_size=PIECE_BYTES):
                for begin in range(0, len(piece), PIECE_BYTES):
                    yield bytes(piece[begin : begin + PIECE_BYTES])

    def remove(self, names: Sequence[str]) -> None:
        import obstore

        # One by one: not every server that speaks the protocol removes many with one request.
        for name in names:
            with _failures_of(name):
                try:
                    obstore.delete(self._store, name)
                except FileNotFoundError:
                    continue


def _s3_store(bucket: str, prefix: str, endpoint: str | None) -> S3Store:
    # Only who has a bucket pays for the import.
    from obstore.store import S3Store

    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    config: S3Config = {"region": region}
    if endpoint is not None:
        config["endpoint"] = endpoint
    return S3Store(
        bucket,
        prefix=prefix or None,
        config=config,
        client_options={"allow_http": (endpoint or "").startswith("http://"), "timeout": _ANSWER_WITHIN},
        retry_config={"max_retries": _RETRIES, "retry_timeout": _ANSWER_WITHIN},
    )


@contextmanager
def _failures_of(name: str) -> Iterator[None]:
    """Errors of obstore as `StorageUnavailable`, without the server's page in them."""
    from obstore.exceptions import BaseError

    try:
        yield
    except (BaseError, PermissionError) as error:
        first = str(error).splitlines()[0][:500]
        raise StorageUnavailable(
            f"the storage of contents failed at {name}: {first}; see BITBUDGET_BLOBS, BITBUDGET_S3_ENDPOINT and the "
            "AWS_ variables"
        ) from error
