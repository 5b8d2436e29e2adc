"""Contents beside the database: the same promises as in it, in a folder and on a server of S3."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx
import obstore
import pytest
from obstore.store import S3Store
from sqlalchemy import func, select, update

from app.settings import Settings
from app.store import blobs, stages
from app.store.blobs import BlobDamaged, BlobMissing
from app.store.engine import Sessions
from app.store.objects import PART_BYTES, Objects, StorageUnavailable
from app.store.tables import DEFAULT_PROJECT, BlobChunkRow, BlobRow
from tests.app.s3 import keys_of, running_s3

TWO_PARTS = PART_BYTES + 3 * 1024**2 + 7


@dataclass(frozen=True)
class Beside:
    """Sessions that store beside the database, and a view of what lies there."""

    sessions: Sessions
    target: str
    endpoint: str | None
    keys: Callable[[], list[str]]
    damage: Callable[[str, bytes], object]


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    with running_s3() as endpoint:
        yield endpoint


def _folder(tmp_path: Path) -> tuple[str, None, Callable[[], list[str]], Callable[[str, bytes], object]]:
    root = tmp_path / "blobs here"

    def keys() -> list[str]:
        return [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()] if root.exists() else []

    return f"file://{root}", None, keys, lambda key, data: (root / key).write_bytes(data)


def _bucket(endpoint: str) -> tuple[str, str, Callable[[], list[str]], Callable[[str, bytes], object]]:
    bucket = f"b-{uuid.uuid4().hex}"
    httpx.put(f"{endpoint}/{bucket}").raise_for_status()

    def damage(key: str, data: bytes) -> object:
        store = S3Store(bucket, endpoint=endpoint, region="us-east-1", client_options={"allow_http": True})
        return obstore.put(store, key, data)

    return f"s3://{bucket}/some/prefix", endpoint, lambda: keys_of(endpoint, bucket), damage


@pytest.fixture(params=["folder", "s3"])
def beside(
    request: pytest.FixtureRequest, sessions: Sessions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Beside:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    made = _folder(tmp_path) if request.param == "folder" else _bucket(request.getfixturevalue("s3_endpoint"))
    target, endpoint, keys, damage = made
    return Beside(
        Sessions(sessions.engine, DEFAULT_PROJECT, objects=Objects(target, endpoint)), target, endpoint, keys, damage
    )


def _contents(size: int) -> bytes:
    return (hashlib.sha256(str(size).encode()).digest() * (size // 32 + 1))[:size]


def _count(sessions: Sessions, table: type) -> int:
    with sessions.read() as session:
        return session.scalars(select(func.count()).select_from(table)).one()


@pytest.mark.parametrize("size", [0, 1, PART_BYTES, TWO_PARTS])
def test_what_is_written_is_read(beside: Beside, tmp_path: Path, size: int) -> None:
    data = _contents(size)
    blob = blobs.write_bytes(beside.sessions, data)
    assert blob.location is not None
    assert blob.location.startswith(f"{beside.target}/")
    assert len(beside.keys()) == -(-size // PART_BYTES)
    assert _count(beside.sessions, BlobChunkRow) == 0
    assert max((len(chunk) for chunk in blobs.read_blob(beside.sessions, blob)), default=0) <= blobs.CHUNK_BYTES
    assert blobs.open_blob_to_file(beside.sessions, blob, tmp_path / "copy").read_bytes() == data
    assert blobs.write_bytes(beside.sessions, data) == blob
    assert _count(beside.sessions, BlobRow) == 1


def test_a_range_comes_from_the_parts_that_it_lies_in(beside: Beside) -> None:
    data = _contents(TWO_PARTS)
    blob = blobs.write_bytes(beside.sessions, data)
    for start, stop in ((0, 1), (5, PART_BYTES), (PART_BYTES - 1, PART_BYTES + 1), (TWO_PARTS - 1, TWO_PARTS)):
        assert b"".join(blobs.read_range(beside.sessions, blob, start, stop)) == data[start:stop]
    second = sorted(beside.keys())[1]
    beside.damage(second, b"short")
    with pytest.raises((BlobDamaged, StorageUnavailable)):
        list(blobs.read_range(beside.sessions, blob, PART_BYTES, TWO_PARTS))
    assert b"".join(blobs.read_range(beside.sessions, blob, 1, 9)) == data[1:9]


def test_damage_never_reaches_the_reader(beside: Beside, tmp_path: Path) -> None:
    blob = blobs.write_bytes(beside.sessions, b"as it was")
    (key,) = beside.keys()
    for damaged in (b"as it wos", b"as it"):
        beside.damage(key, damaged)
        with pytest.raises(BlobDamaged, match="restore the storage of contents from a backup"):
            blobs.open_blob_to_file(beside.sessions, blob, tmp_path / "copy")
        assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("size", [3, 40])
def test_contents_without_their_digest_leave_nothing(beside: Beside, size: int) -> None:
    for contents in (_contents(4), _contents(PART_BYTES + 1)):
        with pytest.raises(BlobDamaged, match=f"expected {size} bytes"):
            blobs.write_stream(beside.sessions, io.BytesIO(contents), "0" * 64, size)
    assert beside.keys() == []
    assert _count(beside.sessions, BlobRow) == 0


def test_a_blob_says_itself_where_it_lies(beside: Beside, sessions: Sessions) -> None:
    there, here = blobs.write_bytes(beside.sessions, b"beside"), blobs.write_bytes(sessions, b"inside")
    elsewhere = Sessions(sessions.engine, DEFAULT_PROJECT, objects=Objects("database", beside.endpoint))
    for reader in (beside.sessions, elsewhere):
        with reader.read() as session:
            found = [blobs.find_blob(session, blob.id) for blob in (there, here)]
        assert [blobs.read_bytes(reader, blob) for blob in found] == [b"beside", b"inside"]
    assert blobs.write_bytes(elsewhere, b"beside") == there, "contents are stored once, wherever"
    blobs.remove_blob(elsewhere, there.id)
    assert beside.keys() == []


def test_what_nothing_refers_to_goes_and_the_rest_stays(beside: Beside) -> None:
    kept = stages.put_stage_result(beside.sessions, "key", blobs.write_bytes(beside.sessions, b"kept"))
    gone = blobs.write_bytes(beside.sessions, b"gone")
    assert blobs.remove_abandoned(beside.sessions, timedelta(hours=1)) == 0
    assert blobs.remove_abandoned(beside.sessions, timedelta(0)) == 1
    assert len(beside.keys()) == 1
    assert blobs.read_bytes(beside.sessions, kept) == b"kept"
    with pytest.raises(BlobMissing, match="is gone from"):
        blobs.read_bytes(beside.sessions, gone)


def test_what_a_killed_writer_left_goes_once_it_can_no_longer_write(beside: Beside, database_url: str) -> None:
    script = Path(__file__).with_name("storing_writer.py")
    command = [sys.executable, str(script), database_url, beside.target, beside.endpoint or ""]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "stored\n"
        writer.kill()
    assert len(beside.keys()) == 1
    assert blobs.remove_abandoned(beside.sessions, timedelta(hours=1)) == 0
    with beside.sessions.begin() as session:
        session.execute(update(BlobRow).values(touched_at=BlobRow.created_at))
    assert blobs.remove_abandoned(beside.sessions, timedelta(microseconds=1)) == 0, "it is marked"
    assert len(beside.keys()) == 1, "a part that is on its way when the mark is set must not come after the removal"
    assert blobs.remove_abandoned(beside.sessions, timedelta(0)) == 1
    assert beside.keys() == []
    assert _count(beside.sessions, BlobRow) == 0


class _TakenForDead(io.BytesIO):
    def __init__(self, sessions: Sessions, data: bytes) -> None:
        super().__init__(data)
        self._sessions = sessions

    def read(self, size: int | None = -1) -> bytes:
        blobs.remove_abandoned(self._sessions, timedelta(0))
        return super().read(size)


def test_a_writer_that_was_taken_for_dead_stores_nothing_more(beside: Beside) -> None:
    data = _contents(TWO_PARTS)
    stream = _TakenForDead(beside.sessions, data)
    with pytest.raises(BlobMissing, match="taken for abandoned"):
        blobs.write_stream(beside.sessions, stream, hashlib.sha256(data).hexdigest(), len(data))
    assert beside.keys() == []


def test_a_storage_that_does_not_answer_keeps_what_is_to_be_removed(
    sessions: Sessions, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    target, endpoint, keys, _ = _bucket(s3_endpoint)
    up = Sessions(sessions.engine, DEFAULT_PROJECT, objects=Objects(target, endpoint))
    down = Sessions(sessions.engine, DEFAULT_PROJECT, objects=Objects(target, "http://127.0.0.1:1"))
    blob = blobs.write_bytes(up, b"x")
    with pytest.raises(StorageUnavailable, match="see BITBUDGET_BLOBS"):
        blobs.read_bytes(down, blob)
    with pytest.raises(StorageUnavailable):
        blobs.write_bytes(down, b"y")
    assert blobs.remove_abandoned(down, timedelta(0)) == 0
    assert len(keys()) == 1
    assert blobs.remove_abandoned(up, timedelta(0)) >= 1
    assert keys() == []


@pytest.mark.parametrize("target", ["", "databases", "s3://", "file://host/x", "file:///", "http://x", "s3://k:s@b/x"])
def test_a_target_that_is_none_is_refused(target: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="file:///FOLDER or s3://BUCKET/PREFIX"):
        Settings(home=tmp_path, blobs=target)


def test_a_location_that_this_program_did_not_make_is_not_opened() -> None:
    for location in ("file:///etc/passwd", "/etc", "file:///x/ab/../../" + "0" * 32, "http://x/00/" + "0" * 32):
        with pytest.raises(ValueError, match="is not the location of a blob"):
            list(Objects().read(location, 0, 1))
