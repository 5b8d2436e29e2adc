from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from app.delivery.signature import new_secret, signed_headers

BODY = b'{"test": 2432232314}'
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def test_the_signature_is_that_of_the_published_example() -> None:
    headers = signed_headers(SECRET, "msg_p5jXN8AQM9LWM0D4loKWxJek", datetime.fromtimestamp(1614265330, UTC), BODY)
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@given(st.text(alphabet="0123456789abcdef", min_size=1, max_size=32), st.text())
def test_another_implementation_takes_what_is_signed(message_id: str, text: str) -> None:
    secret, body = new_secret(), text.encode()
    Webhook(secret).verify(body, signed_headers(secret, message_id, datetime.now(UTC), body), json_parse=False)


@pytest.mark.parametrize("change", ["body", "id", "secret", "time"])
def test_whatever_was_changed_is_noticed(change: str) -> None:
    secret, now = new_secret(), datetime.now(UTC)
    headers = signed_headers(secret, "1", now, BODY)
    body = BODY + b" " if change == "body" else BODY
    headers |= {"id": {"webhook-id": "2"}, "time": {"webhook-timestamp": str(int(now.timestamp()) - 1)}}.get(change, {})
    with pytest.raises(WebhookVerificationError):
        Webhook(new_secret() if change == "secret" else secret).verify(body, headers)


def test_the_time_is_that_of_the_try_wherever_its_clock_stands() -> None:
    now = datetime(2026, 1, 1, 12, tzinfo=UTC)
    elsewhere = now.astimezone(timezone(timedelta(hours=5)))
    assert signed_headers(SECRET, "1", now, BODY) == signed_headers(SECRET, "1", elsewhere, BODY)


def test_no_two_secrets_are_alike() -> None:
    assert len({new_secret() for _ in range(100)}) == 100
