"""Signatures of Standard Webhooks: a receiver that knows the secret knows who sent a message, and that it is whole."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from datetime import datetime

SECRET_PREFIX = "whsec_"  # noqa: S105 - what every secret begins with
SECRET_BYTES = 32


def new_secret() -> str:
    """A secret that nobody can guess, as receivers take it: `whsec_` and base64."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def signed_headers(secret: str, message_id: str, sent_at: datetime, body: bytes) -> dict[str, str]:
    """The headers `webhook-id`, `webhook-timestamp` and `webhook-signature` of a message.

    The signature is `v1,` and base64 of HMAC-SHA256 over `message_id.seconds.body`.

    Args:
        secret: of `new_secret`.
        message_id: the same for every try; without a dot.
        sent_at: the time of this try, aware: receivers refuse what is minutes old.
    """
    seconds = int(sent_at.timestamp())
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    digest = hmac.digest(key, f"{message_id}.{seconds}.".encode() + body, hashlib.sha256)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(seconds),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }
