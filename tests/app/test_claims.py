from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from app.lifecycle import claims
from app.lifecycle.states import Artifact, Claim, Estimate, Heartbeat, JobState, Outcome, Progress
from app.services import jobs as service
from app.store import jobs
from app.store.blobs import BlobRef, write_bytes
from app.store.engine import Sessions, clock
from app.store.tables import JobRow, ProjectRow
from tests.app.claiming import claim_job

LEASE = timedelta(seconds=30)
NewJob = Callable[[], JobRow]


@pytest.fixture
def claimed(sessions: Sessions, new_job: NewJob) -> Claim:
    claim = claim_job(sessions, new_job().id, "me", LEASE)
    assert claim is not None
    return claim


def _row(sessions: Sessions, job_id: str) -> JobRow:
    return service.get(sessions, job_id)


def _events(sessions: Sessions, job_id: str) -> list[tuple[int, str, Any]]:
    with sessions.read() as session:
        return [(event.seq, event.kind, event.data) for event in jobs.events_after(session, job_id, 0)]


def _lose(sessions: Sessions, claim: Claim) -> Claim:
    """The job of `claim` goes to another worker."""
    assert claims.release(sessions, claim)
    other = claim_job(sessions, claim.job_id, "other", LEASE)
    assert other is not None
    return other


def test_a_claim_brings_everything_that_the_worker_needs(sessions: Sessions, new_job: NewJob) -> None:
    job_id = new_job().id
    claim = claim_job(sessions, job_id, "me", LEASE)
    row = _row(sessions, job_id)
    assert claim == Claim(job_id, "default", "me", 1, row.model_id, None, None, row.request)
    assert row.request["budget"]["max_drop"] == 0.01
    assert (row.state, row.owner, row.attempt) == (JobState.RUNNING, "me", 1)
    assert row.lease_until is not None
    assert row.started_at is not None
    assert row.lease_until - row.started_at == LEASE


def test_a_job_can_be_claimed_once(sessions: Sessions, claimed: Claim) -> None:
    assert claim_job(sessions, claimed.job_id, "other", LEASE) is None
    assert claim_job(sessions, "0" * 32, "other", LEASE) is None
    with pytest.raises(ValueError, match="1 to 255 characters, got 0"):
        claims.claim_next(sessions, "", LEASE)


def test_projects_take_turns_and_a_priority_counts_within_one(sessions: Sessions, new_job: NewJob) -> None:
    first = [new_job().id for _ in range(3)]
    others = [_move(sessions, new_job().id, "other") for _ in range(2)]
    with sessions.begin() as session:
        session.get_one(JobRow, first[2]).priority = 5
    order = []
    for _ in range(5):
        claim = claims.claim_next(sessions, "me", LEASE)
        assert claim is not None
        order.append(claim.job_id)
        assert claims.cancelled(sessions, claim)
    assert order == [first[2], others[0], first[0], others[1], first[1]]
    assert claims.claim_next(sessions, "me", LEASE) is None


def test_who_runs_less_is_first(sessions: Sessions, new_job: NewJob) -> None:
    ours = [new_job().id for _ in range(3)]
    other = _move(sessions, new_job().id, "other")
    held = [claims.claim_next(sessions, "me", LEASE) for _ in range(2)]
    assert [claim.job_id for claim in held if claim] == [ours[0], other]
    assert held[0] is not None
    assert claims.cancelled(sessions, held[0])
    _move(sessions, new_job().id, "other")
    claim = claims.claim_next(sessions, "me", LEASE)
    assert claim is not None
    assert claim.job_id == ours[1], "the other project runs one"


def test_a_project_runs_as_many_jobs_as_it_may(sessions: Sessions, new_job: NewJob) -> None:
    for _ in range(4):
        new_job()
    with sessions.begin() as session:
        session.get_one(ProjectRow, "default").max_running = 2
    together = threading.Barrier(4)
    got: list[Claim | None] = []

    def race(owner: str) -> None:
        together.wait()
        got.append(claims.claim_next(sessions, owner, LEASE, most_running=4))

    threads = [threading.Thread(target=race, args=(f"w{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(claim is not None for claim in got) == 2
    with sessions.begin() as session:
        session.get_one(ProjectRow, "default").max_running = None
    assert claims.claim_next(sessions, "me", LEASE, most_running=2) is None
    assert claims.claim_next(sessions, "me", LEASE, most_running=3) is not None


def _move(sessions: Sessions, job_id: str, project_id: str) -> str:
    """Give the job to a project, which is made if need be."""
    with sessions.begin() as session:
        if session.get(ProjectRow, project_id) is None:
            session.add(ProjectRow(id=project_id, name=project_id, created_at=clock(session)))
        session.get_one(JobRow, job_id).project_id = project_id
    return job_id


def test_of_many_claimers_one_gets_the_job(sessions: Sessions, new_job: NewJob) -> None:
    for _ in range(5):
        job_id = new_job().id
        together = threading.Barrier(8)
        got: list[Claim | None] = []

        def race(owner: str, together: threading.Barrier = together, got: Any = got) -> None:
            together.wait()
            got.append(claims.claim_next(sessions, owner, LEASE))

        threads = [threading.Thread(target=race, args=(f"w{i}",)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        winners = [claim for claim in got if claim is not None]
        assert len(got) == 8
        assert len(winners) == 1
        assert _row(sessions, job_id).owner == winners[0].owner


def test_a_heartbeat_extends_the_lease_and_carries_progress(sessions: Sessions, claimed: Claim) -> None:
    before = _row(sessions, claimed.job_id).lease_until
    progress = Progress("sensitivity", 0.4, 12.5)
    assert claims.heartbeat(sessions, claimed, LEASE * 2, progress) is Heartbeat.ALIVE
    assert claims.heartbeat(sessions, claimed, LEASE * 3) is Heartbeat.ALIVE
    row = _row(sessions, claimed.job_id)
    assert before is not None
    assert row.lease_until is not None
    assert row.lease_until > before + LEASE
    assert (row.stage, row.progress, row.eta_seconds) == ("sensitivity", 0.4, 12.5)


def test_events_are_numbered_from_one_and_stages_appear_once(sessions: Sessions, claimed: Claim) -> None:
    for fraction in (0.1, 0.2):
        claims.heartbeat(sessions, claimed, LEASE, Progress("admit", fraction))
    claims.heartbeat(sessions, claimed, LEASE, Progress("plan", 0.5))
    assert claims.record_event(sessions, claimed, "plan", {"size_bytes": 7})
    claims.finish(sessions, claimed, Outcome.MET, {}, {})
    assert _events(sessions, claimed.job_id) == [
        (1, "state", {"state": "queued"}),
        (2, "state", {"state": "running", "attempt": 1}),
        (3, "stage", {"stage": "admit"}),
        (4, "stage", {"stage": "plan"}),
        (5, "plan", {"size_bytes": 7}),
        (6, "state", {"state": "succeeded", "outcome": "met"}),
    ]


def test_an_estimate_is_shown_in_the_job_and_told_to_those_who_watch(sessions: Sessions, claimed: Claim) -> None:
    assert claims.record_estimate(sessions, claimed, Estimate("job", 90.0, 1 << 30, 30.5))
    expected = {"stage": "job", "seconds": 90.0, "memory_bytes": 1 << 30, "float_passes": 30.5}
    assert _row(sessions, claimed.job_id).estimate == expected
    assert _events(sessions, claimed.job_id)[-1][1:] == ("estimate", expected)
    assert claims.record_estimate(sessions, claimed, Estimate("sensitivity", 12.0, 1 << 20))
    of_stage = {"stage": "sensitivity", "seconds": 12.0, "memory_bytes": 1 << 20, "float_passes": None}
    assert _row(sessions, claimed.job_id).estimate == expected
    assert _events(sessions, claimed.job_id)[-1][1:] == ("estimate", of_stage)
    claims.cancelled(sessions, claimed)
    assert not claims.record_estimate(sessions, claimed, Estimate("sensitivity", 1.0, 1))


@pytest.mark.parametrize(
    ("seconds", "memory", "passes"),
    [(-1.0, 1, None), (float("inf"), 1, None), (1.0, -1, None), (1.0, 1, -0.5), (1.0, 1, float("nan"))],
)
def test_an_estimate_is_a_number_that_can_be(seconds: float, memory: int, passes: float | None) -> None:
    with pytest.raises(ValueError, match="must be"):
        Estimate("job", seconds, memory, passes)


def test_finish_writes_results_and_state_together(sessions: Sessions, claimed: Claim) -> None:
    blob = write_bytes(sessions, b"{}")
    assert claims.finish(
        sessions, claimed, Outcome.NOT_MET, {"drop": 0.02}, {"plan": Artifact(blob, "application/json")}
    )
    row = _row(sessions, claimed.job_id)
    assert (row.state, row.outcome, row.summary, row.progress) == ("succeeded", "not_met", {"drop": 0.02}, 1.0)
    assert row.lease_until is None
    assert row.finished_at is not None
    with sessions.read() as session:
        assert jobs.find_artifact(session, claimed.job_id, "plan") == (blob, "application/json")
        assert jobs.find_artifact(session, claimed.job_id, "model") is None


def test_results_that_cannot_be_stored_leave_the_job_running(sessions: Sessions, claimed: Claim) -> None:
    blob = write_bytes(sessions, b"{}")
    gone = BlobRef(blob.id + 1000, blob.sha256, blob.size_bytes)
    broken: list[tuple[dict[str, Any], BlobRef]] = [({}, gone), ({"drop": float("nan")}, blob)]
    for summary, ref in broken:
        with pytest.raises(Exception, match=r"was removed|JSON compliant"):
            claims.finish(sessions, claimed, Outcome.MET, summary, {"plan": Artifact(ref, "application/json")})
        assert _row(sessions, claimed.job_id).state == "running"
    assert claims.heartbeat(sessions, claimed, LEASE) is Heartbeat.ALIVE


def test_who_lost_the_job_can_write_nothing(sessions: Sessions, claimed: Claim) -> None:
    other = _lose(sessions, claimed)
    blob = write_bytes(sessions, b"late")
    before = _row(sessions, claimed.job_id)
    events = _events(sessions, claimed.job_id)

    assert claims.heartbeat(sessions, claimed, LEASE, Progress("late", 1.0)) is Heartbeat.LOST
    assert not claims.finish(sessions, claimed, Outcome.MET, {}, {"plan": Artifact(blob, "application/json")})
    assert not claims.fail(sessions, claimed, "internal", "late")
    assert not claims.cancelled(sessions, claimed)
    assert not claims.release(sessions, claimed)
    assert not claims.record_event(sessions, claimed, "plan", {})

    after = _row(sessions, claimed.job_id)
    assert (after.state, after.owner, after.attempt, after.stage) == ("running", "other", 2, None)
    assert after.lease_until == before.lease_until
    assert _events(sessions, claimed.job_id) == events
    assert claims.finish(sessions, other, Outcome.MET, {}, {})


def test_the_same_owner_in_a_later_attempt_is_fenced_too(sessions: Sessions, claimed: Claim) -> None:
    assert claims.release(sessions, claimed)
    again = claim_job(sessions, claimed.job_id, "me", LEASE)
    assert again is not None
    assert again.attempt == 2
    assert not claims.finish(sessions, claimed, Outcome.MET, {}, {})
    assert claims.finish(sessions, again, Outcome.MET, {}, {})


def test_a_finished_job_stays_finished(sessions: Sessions, claimed: Claim) -> None:
    assert claims.finish(sessions, claimed, Outcome.MET, {}, {})
    assert not claims.finish(sessions, claimed, Outcome.MET, {}, {})
    assert not claims.fail(sessions, claimed, "internal", "x")
    assert claim_job(sessions, claimed.job_id, "other", LEASE) is None
    assert claims.heartbeat(sessions, claimed, LEASE) is Heartbeat.LOST


def test_a_failure_has_a_code_of_the_catalogue_and_a_storable_text(sessions: Sessions, claimed: Claim) -> None:
    with pytest.raises(ValueError, match="no error has the code 'oops'"):
        claims.fail(sessions, claimed, "oops", "x")
    assert claims.fail(sessions, claimed, "model_invalid", "node \x00\ud800 is bad " + "x" * 20_000)
    row = _row(sessions, claimed.job_id)
    assert (row.state, row.error_code) == ("failed", "model_invalid")
    assert row.error_detail is not None
    assert row.error_detail.startswith("node \ufffd? is bad xxx")
    assert len(row.error_detail) == claims.DETAIL_LIMIT


def test_cancelling_a_waiting_job_ends_it_at_once(sessions: Sessions, new_job: NewJob) -> None:
    job_id = new_job().id
    assert service.cancel(sessions, job_id).state == JobState.CANCELLED
    assert _row(sessions, job_id).finished_at is not None
    assert claim_job(sessions, job_id, "me", LEASE) is None
    assert service.cancel(sessions, job_id).state == JobState.CANCELLED


def test_a_running_job_learns_of_its_cancellation_by_heartbeat(sessions: Sessions, claimed: Claim) -> None:
    assert service.cancel(sessions, claimed.job_id).state == JobState.RUNNING
    assert service.cancel(sessions, claimed.job_id).cancel_requested
    assert claims.heartbeat(sessions, claimed, LEASE) is Heartbeat.CANCEL_REQUESTED
    assert claims.cancelled(sessions, claimed)
    assert _row(sessions, claimed.job_id).state == JobState.CANCELLED
    assert [kind for _, kind, _ in _events(sessions, claimed.job_id)] == ["state", "state", "cancel_requested", "state"]


def test_a_released_job_waits_again_unless_it_is_to_be_cancelled(sessions: Sessions, new_job: NewJob) -> None:
    for cancel, state in ((False, JobState.QUEUED), (True, JobState.CANCELLED)):
        claim = claim_job(sessions, new_job().id, "me", LEASE)
        assert claim is not None
        if cancel:
            service.cancel(sessions, claim.job_id)
        assert claims.release(sessions, claim)
        row = _row(sessions, claim.job_id)
        assert row.state == state
        assert (row.finished_at is not None) == cancel


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (("", 0.5, None), "1 to 64 characters"),
        (("x", 1.01, None), r"0\.\.1, got 1\.01"),
        (("x", float("nan"), None), r"0\.\.1, got nan"),
        (("x", 0.5, -1.0), "not negative, got -1"),
        (("x", 0.5, float("inf")), "finite"),
    ],
)
def test_progress_is_checked_when_made(values: tuple[str, float, float | None], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Progress(*values)
