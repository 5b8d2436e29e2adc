"""What forms and addresses of the pages hold, as the services take it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import Form
from pydantic import BeforeValidator

Blank = BeforeValidator(lambda text: text or None)
"""A field that was left empty asks for nothing."""

NameField = Annotated[str, Form(max_length=1000)]
TagsField = Annotated[str, Form(max_length=10_000)]


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
