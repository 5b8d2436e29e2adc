from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from app.delivery.addresses import Reach, parse_networks
from app.delivery.deliverer import Deliverer
from app.schemas.webhook_request import WebhookRequest
from app.services import jobs, webhooks
from app.settings import Settings
from app.store.engine import Sessions
from app.store.tables import AuditRow, DeliveryRow

NOBODY = "0" * 32


@pytest.fixture
def deliverer(settings: Settings, sessions: Sessions) -> Iterator[Deliverer]:
    """A dispatcher's loop that runs."""
    loop = Deliverer(settings, sessions)
    thread = threading.Thread(target=loop.run)
    thread.start()
    yield loop
    loop.stop()
    thread.join()


def _create(server: Any, url: str, **members: Any) -> dict[str, Any]:
    answer = server.client.post("/v1/webhooks", json={"url": url, **members})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def test_the_secret_is_shown_once(server: Any, receiver: Any) -> None:
    made = _create(server, receiver.url, events=["job.failed"])
    secret = made.pop("secret")
    assert secret.startswith("whsec_")
    answer = server.client.get("/v1/webhooks")
    assert answer.json() == {"webhooks": [made]}
    assert secret not in answer.text
    assert (made["url"], made["events"], made["failing_since"], made["pending"]) == (
        receiver.url,
        ["job.failed"],
        None,
        0,
    )
    assert datetime.fromisoformat(made["created_at"]).utcoffset() is not None


def test_a_new_webhook_says_where_its_deliveries_are(server: Any, receiver: Any) -> None:
    answer = server.client.post("/v1/webhooks", json={"url": receiver.url})
    assert server.client.get(answer.headers["Location"]).json() == {"deliveries": [], "next_cursor": None}


def test_a_test_goes_the_way_of_all_messages_and_answers_what_came_back(
    server: Any, receiver: Any, deliverer: Deliverer
) -> None:
    made = _create(server, receiver.url)
    answer = server.client.post(f"/v1/webhooks/{made['id']}/test")
    assert answer.status_code == 200
    delivery = answer.json()
    assert (delivery["state"], delivery["status"], delivery["attempts"]) == ("delivered", 204, 1)
    assert delivery["next_at"] is None
    assert receiver.messages(made["secret"]) == [delivery["payload"]]
    assert delivery["payload"]["type"] == delivery["kind"] == "webhook.test"
    assert receiver.ids() == [delivery["id"]]


def test_a_test_that_fails_is_not_repeated(server: Any, receiver: Any, deliverer: Deliverer) -> None:
    made = _create(server, receiver.url)
    receiver.answers.append(418)
    delivery = server.client.post(f"/v1/webhooks/{made['id']}/test").json()
    assert (delivery["state"], delivery["status"]) == ("failed", 418)
    assert "418" in delivery["last_error"]
    (shown,) = server.client.get("/v1/webhooks").json()["webhooks"]
    assert shown["failing_since"] == delivery["tried_at"]
    assert shown["pending"] == 0


def test_a_test_without_a_dispatcher_is_answered_as_waiting(serve: Any, settings: Settings, receiver: Any) -> None:
    server = serve(settings.model_copy(update={"webhook_timeout_seconds": 0.01}))
    made = _create(server, receiver.url)
    answer = server.client.post(f"/v1/webhooks/{made['id']}/test")
    assert answer.status_code == 202
    assert (answer.json()["state"], answer.json()["tried_at"]) == ("pending", None)


def test_deliveries_are_listed_newest_first_in_pages(server: Any, receiver: Any) -> None:
    made = _create(server, receiver.url)
    jobs_made = [server.submit()["id"] for _ in range(5)]
    for job_id in jobs_made:
        jobs.cancel(server.sessions, job_id)
    seen, cursor = [], None
    while True:
        page = server.client.get(
            f"/v1/webhooks/{made['id']}/deliveries",
            params={"limit": 2} | ({} if cursor is None else {"cursor": cursor}),
        ).json()
        seen += [delivery["job_id"] for delivery in page["deliveries"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == jobs_made[::-1]
    assert server.client.get("/v1/webhooks").json()["webhooks"][0]["pending"] == 5


def test_a_cursor_that_is_none_is_refused(server: Any, receiver: Any) -> None:
    made = _create(server, receiver.url)
    for cursor in (NOBODY, "x", "' OR 1=1"):
        answer = server.client.get(f"/v1/webhooks/{made['id']}/deliveries", params={"cursor": cursor})
        assert (answer.status_code, answer.json()["code"]) == (422, "request_invalid")


def test_what_was_taken_can_be_sent_again_under_its_id(
    server: Any, receiver: Any, deliverer: Deliverer, wait_until: Any
) -> None:
    made = _create(server, receiver.url)
    first = server.client.post(f"/v1/webhooks/{made['id']}/test").json()
    address = f"/v1/webhooks/{made['id']}/deliveries"
    answer = server.client.post(f"{address}/{first['id']}/resend")
    assert (answer.status_code, answer.json()["state"]) == (202, "pending")
    wait_until(lambda: server.client.get(address).json()["deliveries"][0]["state"] == "delivered")
    (again,) = server.client.get(address).json()["deliveries"]
    assert (again["state"], again["attempts"]) == ("delivered", 2)
    assert receiver.ids() == [first["id"]] * 2


def test_a_removed_webhook_is_gone_with_its_deliveries(server: Any, receiver: Any) -> None:
    made = _create(server, receiver.url)
    jobs.cancel(server.sessions, server.submit()["id"])
    answer = server.client.delete(f"/v1/webhooks/{made['id']}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert server.client.get("/v1/webhooks").json() == {"webhooks": []}
    assert server.client.delete(f"/v1/webhooks/{made['id']}").status_code == 404
    jobs.cancel(server.sessions, server.submit()["id"])
    with server.sessions.read() as session:
        assert session.query(DeliveryRow).count() == 0


def test_a_wrong_request_is_refused_with_its_field(server: Any) -> None:
    public = "http://example.com/"
    wrong = [
        ({}, "url"),
        ({"url": ""}, "url"),
        ({"url": 5}, "url"),
        ({"url": "gopher://example.com/"}, "url"),
        ({"url": "http://user:secret@example.com/"}, "url"),
        ({"url": public + "a" * 2048}, "url"),
        ({"url": "http://169.254.169.254/latest/meta-data"}, "url"),
        ({"url": "http://[::1]/"}, "url"),
        ({"url": "http://10.0.0.5/"}, "url"),
        ({"url": public, "events": []}, "events"),
        ({"url": public, "events": ["job.exploded"]}, "events.0"),
        ({"url": public, "secret": "whsec_mine"}, "secret"),
    ]
    for members, field in wrong:
        answer = server.client.post("/v1/webhooks", json=members)
        assert (answer.status_code, answer.json()["code"]) == (422, "request_invalid"), members
        assert [error["field"] for error in answer.json()["errors"]] == [field]


def test_a_project_has_a_bounded_number_of_them(server: Any, receiver: Any) -> None:
    for _ in range(webhooks.MAX_WEBHOOKS):
        _create(server, receiver.url)
    answer = server.client.post("/v1/webhooks", json={"url": receiver.url})
    assert (answer.status_code, answer.json()["code"]) == (409, "webhook_limit_reached")


def test_webhooks_of_another_project_are_not_there(server: Any, receiver: Any) -> None:
    others = server.sessions.of("others")
    theirs = webhooks.create(others, Reach(parse_networks("127.0.0.0/8")), WebhookRequest(url=receiver.url))
    delivery = webhooks.test(others, theirs.id)
    mine = _create(server, receiver.url)
    assert [hook["id"] for hook in server.client.get("/v1/webhooks").json()["webhooks"]] == [mine["id"]]
    calls = [
        ("DELETE", f"/v1/webhooks/{theirs.id}"),
        ("POST", f"/v1/webhooks/{theirs.id}/test"),
        ("GET", f"/v1/webhooks/{theirs.id}/deliveries"),
        ("POST", f"/v1/webhooks/{theirs.id}/deliveries/{delivery.id}/resend"),
        ("POST", f"/v1/webhooks/{mine['id']}/deliveries/{delivery.id}/resend"),
    ]
    for method, address in calls:
        answer = server.client.request(method, address)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), address
    stolen = server.client.get(f"/v1/webhooks/{mine['id']}/deliveries", params={"cursor": delivery.id})
    assert stolen.status_code == 422
    assert len(webhooks.known(others)) == 1


def test_only_admins_of_the_project_may_see_and_change_them(serve: Any, settings: Settings, receiver: Any) -> None:
    server = serve(settings.model_copy(update={"auth": "keys"}))
    calls = [
        ("POST", "/v1/webhooks"),
        ("GET", "/v1/webhooks"),
        ("DELETE", f"/v1/webhooks/{NOBODY}"),
        ("POST", f"/v1/webhooks/{NOBODY}/test"),
        ("GET", f"/v1/webhooks/{NOBODY}/deliveries"),
        ("POST", f"/v1/webhooks/{NOBODY}/deliveries/{NOBODY}/resend"),
    ]
    for role in ("viewer", "member"):
        with server.as_key("team", role) as client:
            for method, address in calls:
                answer = client.request(method, address, json={"url": receiver.url})
                assert (answer.status_code, answer.json()["code"]) == (403, "role_insufficient"), address
    with server.as_key("team") as client:
        assert client.post("/v1/webhooks", json={"url": receiver.url}).status_code == 201
        assert len(client.get("/v1/webhooks").json()["webhooks"]) == 1
    with server.as_key("others") as client:
        assert client.get("/v1/webhooks").json() == {"webhooks": []}


def test_an_id_that_nobody_has_is_not_found(server: Any) -> None:
    calls = (("DELETE", ""), ("POST", "/test"), ("GET", "/deliveries"), ("POST", "/deliveries/x/resend"))
    for webhook_id in (NOBODY, "x", "%00", "..%2f..", "A" * 5000):
        for method, rest in calls:
            assert server.client.request(method, f"/v1/webhooks/{webhook_id}{rest}").status_code == 404


def test_every_change_is_written_down_without_the_address(server: Any, receiver: Any) -> None:
    made = _create(server, receiver.url)
    path = f"/v1/webhooks/{made['id']}"
    delivery = webhooks.test(server.sessions, made["id"])
    server.client.post(f"{path}/deliveries/{delivery.id}/resend")
    server.client.delete(path)
    with server.sessions.read() as session:
        rows = session.query(AuditRow).order_by(AuditRow.id).all()
    assert [(row.action, row.subject) for row in rows if row.action.startswith("webhook.")] == [
        ("webhook.create", path),
        ("webhook.test", path),
        ("webhook.resend", f"{path}/deliveries/{delivery.id}"),
        ("webhook.delete", path),
    ]
    assert [row.detail for row in rows if row.action == "webhook.create"] == [{"host": "127.0.0.1"}]
