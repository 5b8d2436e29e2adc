"""Who computes which chunk: one at a time, for as long as it lives."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta

import pytest

from app.lifecycle import claims, presence, recovery
from app.lifecycle.recovery import reap
from app.store import queue
from app.store.engine import Sessions, clock
from app.store.tables import ChunkClaimRow, JobRow

LEASE = timedelta(seconds=30)
NewJob = Callable[[], JobRow]


def _take(sessions: Sessions, key: str, owner: str, later: timedelta = timedelta(0)) -> bool:
    with sessions.begin() as session:
        now = clock(session) + later
        return queue.take_chunk(session, key, owner, now, now + LEASE)


def _taken(sessions: Sessions) -> set[str]:
    with sessions.read() as session:
        return {row.key for row in session.query(ChunkClaimRow)}


def test_a_chunk_is_taken_by_one_who_may_take_it_again(sessions: Sessions) -> None:
    assert _take(sessions, "a", "w1/1/")
    assert _take(sessions, "a", "w1/1/")
    assert not _take(sessions, "a", "w2/1/")
    assert _take(sessions, "b", "w2/1/")
    assert _take(sessions.of("another"), "a", "w2/1/"), "projects have chunks of their own"
    with sessions.begin() as session:
        queue.give_chunk(session, "a")
    assert _take(sessions, "a", "w2/1/")


def test_of_many_one_takes_a_chunk(sessions: Sessions) -> None:
    together = threading.Barrier(6)
    got: list[bool] = []

    def race(owner: str) -> None:
        together.wait()
        got.append(_take(sessions, "a", owner))

    threads = [threading.Thread(target=race, args=(f"w{i}/1/",)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(got) == 1


def test_what_a_silent_worker_has_taken_goes_to_the_next(sessions: Sessions) -> None:
    assert _take(sessions, "a", "w1/1/")
    assert not _take(sessions, "a", "w2/1/", later=LEASE / 2)
    assert _take(sessions, "a", "w2/1/", later=2 * LEASE)


def test_a_heartbeat_keeps_what_the_leader_has_taken(sessions: Sessions, new_job: NewJob) -> None:
    new_job()
    claim = claims.claim_next(sessions, "w1/1/", LEASE)
    assert claim is not None
    assert _take(sessions, "a", claim.owner)
    claims.heartbeat(sessions, claim, 4 * LEASE)
    assert not _take(sessions, "a", "w2/1/", later=2 * LEASE)


@pytest.mark.parametrize("end", ["released", "cancelled", "lost", "its process lost", "its worker lost"])
def test_a_claim_that_ends_frees_its_chunks_and_no_others(sessions: Sessions, new_job: NewJob, end: str) -> None:
    job = new_job()
    claim = claims.claim_next(sessions, "w1/1/", LEASE)
    assert claim is not None
    assert _take(sessions, "a", claim.owner)
    assert _take(sessions, "b", "w1/2/" if end != "its worker lost" else "w11/1/")
    if end == "released":
        assert claims.release(sessions, claim)
    elif end == "cancelled":
        assert claims.cancelled(sessions, claim)
    elif end == "lost":
        reap(sessions, 3, now=job.created_at + 2 * LEASE)
    elif end == "its process lost":
        assert recovery.reap_attempt(sessions, claim, 3, "its process was killed") == "queued"
    else:
        recovery.reap_worker(sessions, "w1/", 3)
    assert _taken(sessions) == {"b"}


def test_help_is_for_jobs_of_workers_with_the_same_processor(sessions: Sessions, new_job: NewJob) -> None:
    job = new_job()
    claim = claims.claim_next(sessions, "w1/1/", LEASE)
    assert claim is not None
    presence.seen(sessions, "w1", job_id=job.id, processor="one kind")

    def wanted(processor: str, but_not: tuple[str, ...] = ()) -> str | None:
        with sessions.read() as session:
            turn = queue.find_help_wanted(session, processor, but_not)
            return None if turn is None else turn.job_id

    assert wanted("one kind") is None
    assert claims.offer_chunks(sessions, claim, 3)
    assert wanted("one kind") == job.id
    assert wanted("another kind") is None
    assert wanted("one kind", (job.id,)) is None
    assert claims.offer_chunks(sessions, claim, 0)
    assert wanted("one kind") is None
