from __future__ import annotations

import hashlib
import io
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event, func, select, update

from app.store import blobs, stages
from app.store.blobs import CHUNK_BYTES, BlobDamaged, BlobMissing, BlobRef
from app.store.engine import Sessions, clock
from app.store.tables import BlobChunkRow, BlobRow
from app.store.uploads import put_upload

MANY = 3 * CHUNK_BYTES * blobs.CHUNKS_PER_TRANSACTION // 2 + 17


def _count(sessions: Sessions, table: type) -> int:
    with sessions.read() as session:
        return session.scalars(select(func.count()).select_from(table)).one()


def _contents(size: int) -> bytes:
    return (hashlib.sha256(str(size).encode()).digest() * (size // 32 + 1))[:size]


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, MANY])
def test_what_is_written_is_read(sessions: Sessions, tmp_path: Path, size: int) -> None:
    data = _contents(size)
    blob = blobs.write_bytes(sessions, data)
    assert blob == BlobRef(blob.id, hashlib.sha256(data).hexdigest(), size)
    assert blobs.read_bytes(sessions, blob) == data
    assert max((len(chunk) for chunk in blobs.read_blob(sessions, blob)), default=0) <= CHUNK_BYTES
    assert blobs.open_blob_to_file(sessions, blob, tmp_path / "copy").read_bytes() == data


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300))
def test_any_bytes_come_back(sessions: Sessions, data: bytes) -> None:
    assert blobs.read_bytes(sessions, blobs.write_bytes(sessions, data)) == data


def test_the_same_contents_are_stored_once(sessions: Sessions) -> None:
    first = blobs.write_bytes(sessions, b"again")
    assert blobs.write_bytes(sessions, b"again") == first
    assert _count(sessions, BlobRow) == 1


def test_many_writers_of_the_same_contents_get_one_blob(sessions: Sessions) -> None:
    data = _contents(2 * CHUNK_BYTES + 5)
    together = threading.Barrier(6)
    got: list[BlobRef] = []

    def write() -> None:
        together.wait()
        got.append(blobs.write_bytes(sessions, data))

    threads = [threading.Thread(target=write) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 6
    assert len(set(got)) == 1
    assert blobs.read_bytes(sessions, got[0]) == data
    assert _count(sessions, BlobRow) == 1
    assert _count(sessions, BlobChunkRow) == 3


class _Late(io.BytesIO):
    """Stores the same contents elsewhere before the first byte of it is read."""

    def __init__(self, sessions: Sessions, data: bytes) -> None:
        super().__init__(data)
        self._sessions, self._data = sessions, data
        self.winner: BlobRef | None = None

    def read(self, size: int | None = -1) -> bytes:
        if self.winner is None:
            self.winner = blobs.write_bytes(self._sessions, self._data)
        return super().read(size)


def test_who_finishes_second_takes_the_blob_of_the_first(sessions: Sessions) -> None:
    stream = _Late(sessions, b"contended")
    blob = blobs.write_stream(sessions, stream, hashlib.sha256(b"contended").hexdigest(), 9)
    assert blob == stream.winner
    assert _count(sessions, BlobRow) == 1
    assert _count(sessions, BlobChunkRow) == 1


@pytest.mark.parametrize(("size", "digest"), [(3, "0" * 64), (4, hashlib.sha256(b"abc").hexdigest())])
def test_contents_without_their_digest_are_not_stored(sessions: Sessions, size: int, digest: str) -> None:
    with pytest.raises(BlobDamaged, match=f"expected {size} bytes with SHA-256 {digest[:8]}.*got 3 bytes"):
        blobs.write_stream(sessions, io.BytesIO(b"abc"), digest, size)
    assert _count(sessions, BlobRow) == 0
    assert _count(sessions, BlobChunkRow) == 0


def test_damage_on_the_disk_never_reaches_the_reader(sessions: Sessions, tmp_path: Path) -> None:
    blob = blobs.write_bytes(sessions, _contents(CHUNK_BYTES + 3))
    with sessions.begin() as session:
        session.execute(update(BlobChunkRow).where(BlobChunkRow.seq == 1).values(data=b"xyz"))
    got = io.BytesIO()
    with pytest.raises(BlobDamaged, match=f"blob {blob.id} should be .*restore the database from a backup"):
        got.writelines(blobs.read_blob(sessions, blob))
    assert len(got.getvalue()) < blob.size_bytes
    with pytest.raises(BlobDamaged):
        blobs.open_blob_to_file(sessions, blob, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_blob_is_not_found_before_it_is_complete(sessions: Sessions) -> None:
    with sessions.begin() as session:
        now = clock(session)
        row = BlobRow(sha256="0" * 64, size_bytes=1, state="writing", created_at=now, touched_at=now)
        session.add(row)
        session.flush()
        with pytest.raises(BlobMissing, match="is writing"):
            blobs.find_blob(session, row.id)
        with pytest.raises(BlobMissing, match="is gone"):
            blobs.find_blob(session, row.id + 1)


def test_what_a_dead_writer_left_goes_and_what_is_referred_to_stays(sessions: Sessions) -> None:
    kept = blobs.write_bytes(sessions, b"uploaded")
    unreferenced = blobs.write_bytes(sessions, b"nobody wants it")
    staged = stages.put_stage_result(sessions, "key", blobs.write_bytes(sessions, b"stage"))
    with sessions.begin() as session:
        put_upload(session, "model", kept, "m", clock(session))
        now = clock(session)
        row = BlobRow(sha256="0" * 64, size_bytes=5, state="writing", created_at=now, touched_at=now)
        session.add(row)
        session.flush()
        session.add(BlobChunkRow(blob_id=row.id, seq=0, data=b"half"))

    assert blobs.remove_abandoned(sessions, timedelta(hours=1)) == 0, "all of it is fresh"
    assert blobs.remove_abandoned(sessions, timedelta(0)) == 2
    assert blobs.read_bytes(sessions, kept) == b"uploaded"
    assert blobs.read_bytes(sessions, staged) == b"stage"
    assert _count(sessions, BlobRow) == 2
    assert _count(sessions, BlobChunkRow) == 2
    with pytest.raises(BlobMissing, match=f"chunk 0 of blob {unreferenced.id} .* is gone"):
        blobs.read_bytes(sessions, unreferenced)
    again = blobs.write_bytes(sessions, b"nobody wants it")
    assert again.id != unreferenced.id, "numbers of removed blobs are not given again"


def test_storing_contents_again_keeps_them_from_being_cleaned(sessions: Sessions) -> None:
    blob = blobs.write_bytes(sessions, b"x")
    with sessions.begin() as session:
        session.execute(update(BlobRow).values(touched_at=clock(session) - timedelta(days=1)))
    assert blobs.write_bytes(sessions, b"x") == blob
    assert blobs.remove_abandoned(sessions, timedelta(hours=1)) == 0


def test_a_removal_that_was_interrupted_is_continued(sessions: Sessions) -> None:
    blob = blobs.write_bytes(sessions, b"x")
    with sessions.begin() as session:
        session.execute(update(BlobRow).where(BlobRow.id == blob.id).values(state="deleting"))
    assert blobs.remove_abandoned(sessions, timedelta(0)) == 1
    assert _count(sessions, BlobRow) == 0


def test_a_blob_that_somebody_is_about_to_refer_to_is_not_cleaned(sessions: Sessions) -> None:
    blob = blobs.write_bytes(sessions, b"old and unreferenced")
    with sessions.begin() as session:
        session.execute(update(BlobRow).values(touched_at=clock(session) - timedelta(days=1)))
    removed: list[int] = []
    cleaner = threading.Thread(target=lambda: removed.append(blobs.remove_abandoned(sessions, timedelta(hours=1))))
    asks = threading.Event()

    @event.listens_for(sessions.engine, "before_cursor_execute")
    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if threading.current_thread() is cleaner and statement.startswith(("BEGIN IMMEDIATE", "UPDATE")):
            asks.set()

    with sessions.begin() as session:
        put_upload(session, "model", blob, None, clock(session))
        cleaner.start()
        asks.wait()  # for the lock that this transaction has
        assert removed == []
    cleaner.join()
    assert removed == [0]
    assert blobs.read_bytes(sessions, blob) == b"old and unreferenced"


def test_a_blob_that_is_being_removed_cannot_be_referred_to(sessions: Sessions) -> None:
    blob = blobs.write_bytes(sessions, b"x")
    with sessions.begin() as session:
        session.execute(update(BlobRow).values(state="deleting"))
    with pytest.raises(BlobMissing, match="store its contents again"):
        stages.put_stage_result(sessions, "key", blob)
    assert stages.get_stage_result(sessions, "key") is None


class _Slow(io.BytesIO):
    """Is taken for abandoned while it is read."""

    def __init__(self, sessions: Sessions, data: bytes) -> None:
        super().__init__(data)
        self._sessions = sessions

    def read(self, size: int | None = -1) -> bytes:
        blobs.remove_abandoned(self._sessions, timedelta(0))
        return super().read(size)


def test_a_writer_that_was_taken_for_dead_is_told(sessions: Sessions) -> None:
    with pytest.raises(BlobMissing, match="taken for abandoned while it was written; write it again"):
        blobs.write_stream(sessions, _Slow(sessions, b"abc"), hashlib.sha256(b"abc").hexdigest(), 3)


def test_stage_results_are_shared_and_the_first_one_counts(sessions: Sessions) -> None:
    assert stages.get_stage_result(sessions, "k") is None
    first, second = blobs.write_bytes(sessions, b"1"), blobs.write_bytes(sessions, b"2")
    assert stages.put_stage_result(sessions, "k", first) == first
    assert stages.put_stage_result(sessions, "k", first) == first
    assert stages.put_stage_result(sessions, "k", second) == first
    assert stages.get_stage_result(sessions, "k") == first
    for key in ("", "x" * 256):
        with pytest.raises(ValueError, match="1 to 255 characters"):
            stages.put_stage_result(sessions, key, first)


def test_stage_results_are_removed_by_the_exact_beginning_of_their_keys(sessions: Sessions) -> None:
    blob = blobs.write_bytes(sessions, b"1")
    for key in ("a_/1", "a_/2", "ab/1", "A_/1", "a_"):
        stages.put_stage_result(sessions, key, blob)
    assert stages.remove_stage_results(sessions, "a_/") == 2
    left = [key for key in ("a_/1", "a_/2", "ab/1", "A_/1", "a_") if stages.get_stage_result(sessions, key)]
    assert left == ["ab/1", "A_/1", "a_"]
    with pytest.raises(ValueError, match="every stage"):
        stages.remove_stage_results(sessions, "")
