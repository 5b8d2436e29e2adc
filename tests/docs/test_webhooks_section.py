"""What docs/api.md says of webhooks is what they do."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from app.delivery.signature import new_secret, signed_headers
from app.schemas.webhook_answers import Delivery, Webhook
from app.schemas.webhook_request import MAX_URL, MessageKind, WebhookRequest
from app.services.webhooks import MAX_WEBHOOKS
from app.store.webhooks import _about


@pytest.fixture
def section(page: Callable[[str], Any]) -> Any:
    whole = page("api")
    return type(whole)(whole.path, whole.section("Webhooks"))


def test_every_field_and_kind_is_described(section: Any) -> None:
    rows = {row[0].strip("`"): row for row in re.findall(r"^\| (`\w+`) \| (.*?) \|", section.text, re.MULTILINE)}
    assert set(rows) == set(WebhookRequest.model_fields)
    assert set(re.findall(r"`(job\.\w+)`", rows["events"][1])) == set(MessageKind)
    assert f"at most {MAX_URL:,} characters" in rows["url"][1]


def test_every_member_is_named(section: Any) -> None:
    named = {*Delivery.model_fields, "failing_since", "pending"}
    assert [name for name in named if f"`{name}`" not in section.text] == []
    assert set(Webhook.model_fields) == {"id", "url", "events", "created_at", "failing_since", "pending"}


def test_the_message_has_the_members_of_a_real_one(section: Any, new_message: dict[str, Any]) -> None:
    (block,) = section.blocks("json")
    shown = json.loads(block)
    assert shown.keys() == {"type", "timestamp", "data"}
    assert shown["data"].keys() == new_message.keys()


@pytest.fixture
def new_message() -> dict[str, Any]:
    from app.store.tables import JobRow

    return _about(JobRow(id="0" * 32, state="succeeded", attempt=1), 42)


def test_the_receiver_of_the_page_takes_our_messages(section: Any) -> None:
    (block,) = section.blocks("python")
    names: dict[str, Any] = {}
    exec(block, names)
    secret, body = new_secret(), b'{"type":"webhook.test"}'
    headers = signed_headers(secret, "1", datetime.now(UTC), body)
    assert names["message"](secret, body, headers) == {"type": "webhook.test"}


def test_the_limit_is_that_of_the_code(page: Callable[[str], Any]) -> None:
    told = {what: limit for what, limit, _ in page("api").rows("Limits")}
    assert told["webhooks of a project"] == str(MAX_WEBHOOKS)
