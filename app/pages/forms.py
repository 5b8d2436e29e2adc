"""What forms and addresses of the pages hold, as the services take it."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import Form
from pydantic import BeforeValidator

Blank = BeforeValidator(lambda text: text or None)
"""A field that was left empty asks for nothing."""

NameField = Annotated[str, Form(max_length=1000)]
TagsField = Annotated[str, Form(max_length=10_000)]


def new_key() -> str:
    """What a form carries so that it makes one job, however often it is sent."""
    return uuid.uuid4().hex


def key_of(key: str | None, changes: Mapping[str, Any]) -> str | None:
    """The idempotency key of these changes, sent by a form with `key`; None: it brought none.

    The form that is filled in anew, after going back in the browser, has its old key and asks for another job.
    """
    return key and f"{key[:100]}-{hashlib.sha256(json.dumps(changes, sort_keys=True).encode()).hexdigest()}"


def labels_of(name: str, tags: str, pinned: bool) -> dict[str, Any]:
    """The labels of a form, as the API's PATCH takes them; tags have commas between them."""
    return {"name": name.strip() or None, "tags": tags_of(tags), "pinned": pinned}


def tags_of(text: str) -> list[str]:
    """The tags in a text that has commas between them."""
    return [tag for part in text.split(",") if (tag := part.strip())]


def local(address: str, otherwise: str = "/") -> str:
    """`address` if it is one of this service, else `otherwise`: a form must not lead elsewhere."""
    return address if address.startswith("/") and not address.startswith(("//", "/\\")) else otherwise


def with_query(path: str, members: Mapping[str, Any]) -> str:
    """The path with those members that are not None as its query."""
    query = urlencode({name: str(value) for name, value in members.items() if value is not None})
    return f"{path}?{query}" if query else path
