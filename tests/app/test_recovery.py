from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from app.lifecycle import claims, presence, recovery
from app.lifecycle.recovery import Reaped, reap
from app.lifecycle.states import Claim, Heartbeat, JobState, Outcome
from app.services import jobs as service
from app.services.health import condition
from app.settings import Settings
from app.store.engine import Sessions, clock
from app.store.tables import JobRow
from app.store.temporary import work_folder
from tests.app.claiming import claim_job

LEASE = timedelta(seconds=30)
NewJob = Callable[[], JobRow]


def _claim(sessions: Sessions, job_id: str, owner: str = "me") -> Claim:
    claim = claim_job(sessions, job_id, owner, LEASE)
    assert claim is not None
    return claim


def test_a_lease_that_runs_is_left_alone(sessions: Sessions, new_job: NewJob) -> None:
    job = new_job()
    _claim(sessions, job.id)
    assert reap(sessions, 3, now=job.created_at + LEASE / 2) == Reaped((), (), ())
    assert service.get(sessions, job.id).state == JobState.RUNNING


def test_an_expired_job_waits_again_and_its_old_worker_is_fenced_off(sessions: Sessions, new_job: NewJob) -> None:
    job = new_job()
    late = _claim(sessions, job.id)
    now = job.created_at + 2 * LEASE
    assert reap(sessions, 3, now=now) == Reaped((job.id,), (), ())
    assert reap(sessions, 3, now=now) == Reaped((), (), ())
    assert claims.heartbeat(sessions, late, LEASE) is Heartbeat.LOST
    again = _claim(sessions, job.id, "other")
    assert again.attempt == 2
    assert not claims.finish(sessions, late, Outcome.MET, {}, {})
    assert claims.finish(sessions, again, Outcome.MET, {}, {})
    kept = service.get(sessions, job.id)
    assert kept.started_at is not None
    assert kept.started_at < now, "the first start counts"


def test_a_heartbeat_that_comes_before_the_reaper_keeps_the_job(sessions: Sessions, new_job: NewJob) -> None:
    job = new_job()
    claim = _claim(sessions, job.id)
    late = job.created_at + 2 * LEASE
    assert claims.heartbeat(sessions, claim, 3 * LEASE) is Heartbeat.ALIVE
    assert reap(sessions, 3, now=late) == Reaped((), (), ())


def test_a_job_that_kills_its_workers_fails_when_the_attempts_are_used_up(sessions: Sessions, new_job: NewJob) -> None:
    job = new_job()
    now = job.created_at
    for attempt in (1, 2, 3):
        assert _claim(sessions, job.id, f"worker {attempt}").attempt == attempt
        now += 10 * LEASE
        reaped = reap(sessions, 3, now=now)
        assert reaped == (Reaped((job.id,), (), ()) if attempt < 3 else Reaped((), (job.id,), ()))
    row = service.get(sessions, job.id)
    assert (row.state, row.error_code, row.attempt) == ("failed", "worker_lost", 3)
    assert row.error_detail is not None
    assert row.error_detail.startswith("3 processes in turn died")
    assert row.finished_at == now


def test_the_jobs_of_a_dead_worker_are_taken_back_before_their_leases_end(sessions: Sessions, new_job: NewJob) -> None:
    made = [new_job() for _ in range(4)]
    for job, owner in zip(made, ("host:1:a/1", "host:1:a/2", "HOST:1:a/1", "host:1:b/1"), strict=True):
        _claim(sessions, job.id, owner)
    service.cancel(sessions, made[1].id)
    assert recovery.reap_worker(sessions, "host:1:a", 3) == Reaped((made[0].id,), (), (made[1].id,))
    assert service.get(sessions, made[2].id).state == JobState.RUNNING
    _claim(sessions, made[0].id)
    everyone = recovery.reap_worker(sessions, "", 2)
    assert (set(everyone.requeued), everyone.failed) == ({made[2].id, made[3].id}, (made[0].id,))


def test_jobs_that_were_given_back_do_not_use_up_attempts(sessions: Sessions, new_job: NewJob) -> None:
    job = new_job()
    for _ in range(5):
        assert claims.release(sessions, _claim(sessions, job.id))
    now = job.created_at + 10 * LEASE
    _claim(sessions, job.id)
    assert reap(sessions, 2, now=now).requeued == (job.id,)
    _claim(sessions, job.id)
    assert reap(sessions, 2, now=now + 10 * LEASE).failed == (job.id,)


def test_a_job_to_be_cancelled_whose_worker_is_lost_is_cancelled(sessions: Sessions, new_job: NewJob) -> None:
    job = new_job()
    _claim(sessions, job.id)
    service.cancel(sessions, job.id)
    assert reap(sessions, 1, now=job.created_at + 2 * LEASE) == Reaped((), (), (job.id,))
    row = service.get(sessions, job.id)
    assert (row.state, row.error_code) == ("cancelled", None)


def test_an_attempt_that_got_on_is_not_fruitless(sessions: Sessions, new_job: NewJob) -> None:
    job = new_job()
    now = job.created_at
    for _ in range(5):
        claim = _claim(sessions, job.id)
        assert claims.progressed(sessions, claim)
        now += 10 * LEASE
        assert reap(sessions, 2, now=now).requeued == (job.id,)
    for attempt in range(2):
        _claim(sessions, job.id)
        now += 10 * LEASE
        assert (reap(sessions, 2, now=now).failed == (job.id,)) == (attempt == 1)


def test_idle_workers_are_woken_for_what_there_is_and_no_more(sessions: Sessions, new_job: NewJob) -> None:
    new_job()
    assert recovery.workers_to_wake(sessions) == 0, "nobody is there to be woken"
    for name in ("a", "b", "c"):
        presence.seen(sessions, name)
    assert recovery.workers_to_wake(sessions) == 1
    for _ in range(10):
        new_job()
    assert recovery.workers_to_wake(sessions) == 3
    presence.seen(sessions, "a", job_id="0" * 32)
    assert recovery.workers_to_wake(sessions) == 2
    held = [claims.claim_next(sessions, "me", LEASE) for _ in range(11)]
    assert recovery.workers_to_wake(sessions) == 0
    assert held[0] is not None
    assert claims.offer_chunks(sessions, held[0], 5)
    assert recovery.workers_to_wake(sessions) == 2


def test_workers_are_counted_while_they_are_seen(sessions: Sessions) -> None:
    assert condition(sessions).workers == 0
    presence.seen(sessions, "a")
    presence.seen(sessions, "b")
    presence.seen(sessions, "a")
    assert condition(sessions).workers == 2
    presence.gone(sessions, "a")
    assert condition(sessions).workers == 1


def test_cleaning_takes_what_is_nobodys_and_nothing_else(
    sessions: Sessions, new_job: NewJob, tmp_path: Path, database_url: str
) -> None:
    settings = Settings(home=tmp_path / "home", database_url=database_url)
    new_job()
    presence.seen(sessions, "long ago")
    dead = settings.tmp_dir / "work-dead"
    with work_folder(settings.tmp_dir) as mine:
        dead.mkdir()
        (settings.tmp_dir / "work-dead.lock").touch()
        (dead / "file").write_bytes(b"x")
        with sessions.read() as session:
            now = clock(session)
        assert recovery.clean(sessions, settings) == 1
        assert mine.exists()
    assert not mine.exists()
    assert list(settings.tmp_dir.iterdir()) == []
    assert condition(sessions).workers == 1
    recovery.clean(sessions, settings, now=now + timedelta(days=2))
    assert condition(sessions).workers == 0
