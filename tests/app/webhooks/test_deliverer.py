from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from http.server import BaseHTTPRequestHandler
from random import Random
from typing import Any

import pytest

from app.delivery.deliverer import KEEP, MOST_TO_ONE, Deliverer, Schedule
from app.dispatcher import Dispatcher
from app.lifecycle import claims, recovery
from app.lifecycle.states import Claim, Outcome
from app.schemas.webhook_request import MessageKind
from app.services import jobs
from app.settings import Settings
from app.store import webhooks
from app.store.engine import Sessions, clock
from app.store.tables import DeliveryRow, JobRow, WebhookRow

LEASE = timedelta(seconds=30)
NewJob = Callable[[], JobRow]
NewWebhook = Callable[..., WebhookRow]


def _claim(sessions: Sessions) -> Claim:
    claim = claims.claim_next(sessions, "worker", LEASE)
    assert claim is not None
    return claim


def _deliveries(sessions: Sessions) -> list[DeliveryRow]:
    with sessions.read() as session:
        return list(session.query(DeliveryRow).order_by(DeliveryRow.created_at, DeliveryRow.id))


def _drain(deliverer: Deliverer) -> None:
    while deliverer.step():
        pass


def _make_due(sessions: Sessions) -> None:
    """Let the pause, or the lease, of every delivery be over."""
    with sessions.begin() as session:
        for row in session.query(DeliveryRow).where(DeliveryRow.state == "pending"):
            row.next_at = clock(session) - timedelta(seconds=1)


@pytest.fixture
def deliverer(settings: Settings, sessions: Sessions) -> Deliverer:
    return Deliverer(settings, sessions)


def test_every_state_of_a_job_is_told_in_its_order(
    sessions: Sessions, new_job: NewJob, new_webhook: NewWebhook, receiver: Any, deliverer: Deliverer
) -> None:
    new_webhook()
    job = new_job()
    claims.finish(sessions, _claim(sessions), Outcome.NOT_MET, {}, {})
    _drain(deliverer)
    messages = receiver.messages()
    assert [message["type"] for message in messages] == ["job.started", "job.succeeded"]
    assert messages[1]["timestamp"].endswith("Z")
    assert messages[1]["data"] == {
        "id": job.id,
        "state": "succeeded",
        "outcome": "not_met",
        "code": None,
        "name": None,
        "tags": [],
        "attempt": 1,
        "event": 3,
        "links": {"job": f"/v1/jobs/{job.id}"},
    }
    kept = _deliveries(sessions)
    assert [(row.state, row.attempts, row.status, row.last_error) for row in kept] == [("delivered", 1, 204, None)] * 2
    assert receiver.ids() == [row.id for row in kept]


def test_failures_and_cancels_are_told_with_their_code(
    sessions: Sessions, new_job: NewJob, new_webhook: NewWebhook, receiver: Any, deliverer: Deliverer
) -> None:
    new_webhook(events=["job.failed", "job.cancelled"])
    new_job()
    claims.fail(sessions, _claim(sessions), "model_not_onnx", "no ONNX in here")
    jobs.cancel(sessions, new_job().id)
    new_job()
    claim = _claim(sessions)
    jobs.cancel(sessions, claim.job_id)
    claims.cancelled(sessions, claim)
    _drain(deliverer)
    told = sorted((message["type"], message["data"]["code"] or "") for message in receiver.messages())
    assert told == [("job.cancelled", ""), ("job.cancelled", ""), ("job.failed", "model_not_onnx")]


def test_a_job_that_loses_its_workers_is_told_of_too(
    sessions: Sessions, new_job: NewJob, new_webhook: NewWebhook, receiver: Any, deliverer: Deliverer
) -> None:
    new_webhook()
    new_job()
    for _ in range(2):
        claim = _claim(sessions)
        recovery.reap_worker(sessions, claim.owner, 2)
    _drain(deliverer)
    told = [(message["type"], message["data"]["attempt"]) for message in receiver.messages()]
    assert told == [("job.started", 1), ("job.started", 2), ("job.failed", 2)]


def test_only_the_project_of_a_job_is_told(
    sessions: Sessions, new_job: NewJob, receiver: Any, deliverer: Deliverer
) -> None:
    with sessions.of("others").begin() as session:
        webhooks.put_webhook(session, "b" * 32, receiver.url, "whsec_AAAA", None, clock(session))
    jobs.cancel(sessions, new_job().id)
    assert _deliveries(sessions) == []


def test_a_change_that_is_not_committed_is_not_told(
    sessions: Sessions, new_job: NewJob, new_webhook: NewWebhook, receiver: Any, deliverer: Deliverer
) -> None:
    new_webhook()
    new_job()
    claim = _claim(sessions)
    _drain(deliverer)
    late = Claim(**{name: getattr(claim, name) for name in Claim.__slots__} | {"attempt": 7})
    assert not claims.finish(sessions, late, Outcome.MET, {}, {})
    _drain(deliverer)
    assert [message["type"] for message in receiver.messages()] == ["job.started"]


def test_every_kind_that_a_webhook_may_want_is_written(sessions: Sessions) -> None:
    assert set(webhooks.KIND_OF_STATE.values()) == set(MessageKind)


def test_what_is_refused_is_tried_again_until_it_is_taken(
    sessions: Sessions, new_job: NewJob, new_webhook: NewWebhook, receiver: Any, deliverer: Deliverer
) -> None:
    hook = new_webhook(events=["job.cancelled"])
    jobs.cancel(sessions, new_job().id)
    receiver.answers.extend([500, 503])
    assert deliverer.step() == 1
    assert deliverer.step() == 0, "it waits for its next try"
    (row,) = _deliveries(sessions)
    assert (row.state, row.attempts, row.status) == ("pending", 1, 500)
    assert row.last_error == "it answered 500, and only 200 to 299 takes a message"
    with sessions.read() as session:
        failing = session.get_one(WebhookRow, hook.id).failing_since
    assert failing is not None
    for _ in range(2):
        _make_due(sessions)
        deliverer.step()
    (row,) = _deliveries(sessions)
    assert (row.state, row.attempts, row.status, row.last_error) == ("delivered", 3, 204, None)
    assert len(set(receiver.ids())) == 1, "receivers know by the id that it is the same"
    with sessions.read() as session:
        assert session.get_one(WebhookRow, hook.id).failing_since is None


def test_the_beginning_of_a_failure_is_kept_through_further_ones(
    sessions: Sessions, new_job: NewJob, new_webhook: NewWebhook, receiver: Any, deliverer: Deliverer
) -> None:
    hook = new_webhook()
    jobs.cancel(sessions, new_job().id)
    receiver.answers.extend([500, 500])
    seen = []
    for _ in range(2):
        _make_due(sessions)
        deliverer.step()
        with sessions.read() as session:
            seen.append(session.get_one(WebhookRow, hook.id).failing_since)
    assert seen[0] == seen[1] is not None


def test_it_is_given_up_after_three_days_and_shown(
    sessions: Sessions, new_job: NewJob, new_webhook: NewWebhook, receiver: Any, deliverer: Deliverer
) -> None:
    new_webhook()
    jobs.cancel(sessions, new_job().id)
    with sessions.begin() as session:
        row = session.query(DeliveryRow).one()
        assert row.give_up_at - row.created_at == timedelta(days=3)
        row.give_up_at = clock(session)
    receiver.answers.append(500)
    deliverer.step()
    _make_due(sessions)
    assert deliverer.step() == 0
    (row,) = _deliveries(sessions)
    assert (row.state, row.attempts) == ("failed", 1)


def test_a_dispatcher_that_died_after_sending_sends_again_when_its_lease_is_over(
    sessions: Sessions, new_job: NewJob, new_webhook: NewWebhook, receiver: Any, deliverer: Deliverer
) -> None:
    new_webhook()
    jobs.cancel(sessions, new_job().id)
    with sessions.begin() as session:
        (lost,) = webhooks.take_due(session, clock(session), LEASE, 10)
    assert deliverer.step() == 0, "it is somebody's"
    _make_due(sessions)
    assert deliverer.step() == 1
    (row,) = _deliveries(sessions)
    assert (row.state, row.attempts, row.last_error) == ("delivered", 2, None)
    assert receiver.ids() == [lost.delivery_id]


def test_a_sender_that_was_too_slow_writes_nothing_down(
    sessions: Sessions, new_job: NewJob, new_webhook: NewWebhook, receiver: Any
) -> None:
    new_webhook()
    jobs.cancel(sessions, new_job().id)
    attempts = []
    for _ in range(2):
        with sessions.begin() as session:
            attempts += webhooks.take_due(session, clock(session), LEASE, 10)
        _make_due(sessions)
    slow, newest = attempts
    assert (slow.number, newest.number) == (1, 2)
    with sessions.begin() as session:
        assert not webhooks.record_failure(session, slow, 500, "late", clock(session), LEASE)
        assert not webhooks.record_success(session, slow, 200, clock(session))
        assert webhooks.record_success(session, newest, 200, clock(session))


def test_a_lease_is_longer_than_a_try_can_take(settings: Settings, sessions: Sessions) -> None:
    deliverer = Deliverer(settings, sessions)
    assert deliverer._lease.total_seconds() >= 2 * settings.webhook_timeout_seconds


def test_two_dispatchers_never_take_the_same(sessions: Sessions, new_job: NewJob, new_webhook: NewWebhook) -> None:
    for number in range(8):
        new_webhook(f"{number:032x}")
    for _ in range(4):
        jobs.cancel(sessions, new_job().id)
    taken: list[str] = []
    gate = threading.Barrier(4)

    def take() -> None:
        gate.wait()
        while True:
            with sessions.begin() as session:
                attempts = webhooks.take_due(session, clock(session), LEASE, 3)
            if not attempts:
                # Another one may have locked the rows that this one looked for.
                with sessions.read() as session:
                    if not session.query(DeliveryRow).where(DeliveryRow.attempts == 0).count():
                        return
            taken.extend(attempt.delivery_id for attempt in attempts)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == len(set(taken)) == 32


def test_a_receiver_that_hangs_holds_up_no_other(
    settings: Settings, sessions: Sessions, new_job: NewJob, new_webhook: NewWebhook, receiver: Any, wait_until: Any
) -> None:
    go = threading.Event()
    held: list[str] = []

    def hang(handler: BaseHTTPRequestHandler) -> None:
        held.append(handler.headers["webhook-id"])
        go.wait()
        handler.send_response(204)
        handler.end_headers()

    new_webhook("a" * 32)
    receiver.answers.extend([hang] * MOST_TO_ONE)
    for _ in range(MOST_TO_ONE + 2):
        jobs.cancel(sessions, new_job().id)
    deliverer = Deliverer(settings, sessions)
    thread = threading.Thread(target=deliverer.run)
    thread.start()
    try:
        wait_until(lambda: len(held) == MOST_TO_ONE)
        new_webhook("b" * 32)
        job = new_job()
        jobs.cancel(sessions, job.id)
        with sessions.read() as session:
            other = session.query(DeliveryRow).where(DeliveryRow.webhook_id == "b" * 32).one()
        wait_until(lambda: other.id in receiver.ids())
        assert len(receiver.received) == MOST_TO_ONE + 1, "the one that hangs gets no more at once"
        go.set()
        wait_until(lambda: all(row.state == "delivered" for row in _deliveries(sessions)))
    finally:
        go.set()
        deliverer.stop()
        thread.join()
    assert len(receiver.ids()) == len(set(receiver.ids())) == MOST_TO_ONE + 4


def test_stopping_does_not_wait_for_one_that_hangs(
    settings: Settings, sessions: Sessions, new_job: NewJob, new_webhook: NewWebhook, receiver: Any, wait_until: Any
) -> None:
    go = threading.Event()
    receiver.answers.append(lambda _handler: go.wait())
    new_webhook()
    jobs.cancel(sessions, new_job().id)
    patient = Deliverer(settings.model_copy(update={"webhook_timeout_seconds": 3600.0}), sessions)
    thread = threading.Thread(target=patient.run)
    thread.start()
    wait_until(lambda: receiver.received)
    patient.stop()
    thread.join()
    go.set()
    (row,) = _deliveries(sessions)
    assert row.state == "pending", "it is sent again"


def test_no_error_ends_the_loop(
    settings: Settings,
    sessions: Sessions,
    new_job: NewJob,
    new_webhook: NewWebhook,
    receiver: Any,
    wait_until: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    new_webhook()
    jobs.cancel(sessions, new_job().id)
    take_due, wrong = webhooks.take_due, [ValueError("never seen before")]

    def sometimes(*arguments: Any) -> Any:
        if wrong:
            raise wrong.pop()
        return take_due(*arguments)

    monkeypatch.setattr(webhooks, "take_due", sometimes)
    deliverer = Deliverer(settings, sessions)
    thread = threading.Thread(target=deliverer.run)
    thread.start()
    wait_until(lambda: receiver.received)
    deliverer.stop()
    thread.join()


def test_the_dispatcher_delivers_beside_its_own_work(
    settings: Settings, sessions: Sessions, new_job: NewJob, new_webhook: NewWebhook, receiver: Any, wait_until: Any
) -> None:
    new_webhook()
    jobs.cancel(sessions, new_job().id)
    dispatcher = Dispatcher(settings, sessions, lambda: None)
    thread = threading.Thread(target=dispatcher.run)
    thread.start()
    wait_until(lambda: receiver.received)
    dispatcher.stop()
    thread.join()


def test_a_webhook_that_is_removed_takes_its_deliveries_with_it(
    sessions: Sessions, new_job: NewJob, new_webhook: NewWebhook, receiver: Any, deliverer: Deliverer
) -> None:
    hook = new_webhook()
    jobs.cancel(sessions, new_job().id)
    with sessions.begin() as session:
        (attempt,) = webhooks.take_due(session, clock(session), LEASE, 10)
    with sessions.begin() as session:
        assert webhooks.remove_webhook(session, hook.id)
    with sessions.begin() as session:
        assert not webhooks.record_success(session, attempt, 200, clock(session))
    assert _deliveries(sessions) == []


def test_removing_a_webhook_never_fails_the_end_of_a_job(
    sessions: Sessions, new_job: NewJob, new_webhook: NewWebhook
) -> None:
    """The end of a job has seen the webhook, and writes its delivery while somebody removes the webhook."""
    if sessions.engine.dialect.name != "postgresql":
        pytest.skip("SQLite has one writer at a time")
    hook = new_webhook()
    job = new_job()
    removed = threading.Event()

    def remove() -> None:
        with sessions.begin() as session:
            webhooks.remove_webhook(session, hook.id)
        removed.set()

    thread = threading.Thread(target=remove)
    with sessions.begin() as session:
        row = session.get_one(JobRow, job.id)
        row.state = "cancelled"
        row.finished_at = clock(session)
        webhooks.add_deliveries(session, row, 2, clock(session))
        thread.start()
        assert not removed.wait(0.2), "it waits for the end of the job"
    thread.join()
    assert _deliveries(sessions) == []


def test_old_deliveries_are_forgotten_and_what_waits_is_not(
    sessions: Sessions, new_job: NewJob, new_webhook: NewWebhook, deliverer: Deliverer
) -> None:
    new_webhook()
    for _ in range(3):
        jobs.cancel(sessions, new_job().id)
    assert deliverer.clean() == 0
    with sessions.begin() as session:
        rows = session.query(DeliveryRow).all()
        for row, state in zip(rows, ("delivered", "failed", "pending"), strict=True):
            row.state = state
            row.next_at = clock(session) - KEEP - timedelta(hours=1)
    assert deliverer.clean() == 2
    assert [row.state for row in _deliveries(sessions)] == ["pending"]


def test_pauses_double_up_to_six_hours_and_are_spread() -> None:
    schedule, random = Schedule(timedelta(seconds=5)), Random(0)
    pauses = [schedule.pause(tries, random).total_seconds() for tries in range(1, 30)]
    for number, pause in enumerate(pauses):
        place = min(5 * 2**number, 6 * 3600)
        assert 0.75 * place <= pause <= 1.25 * place
    assert len(set(pauses)) == len(pauses)
    assert schedule.pause(10**9, random) <= timedelta(hours=7.5)
    days = sum(min(5 * 2**number, 6 * 3600) for number in range(22)) / 86400
    assert 2.5 < days < 3.5, "about 22 tries within the three days"
