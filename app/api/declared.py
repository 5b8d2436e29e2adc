"""What calls declare of their answers in OpenAPI: headers, and documents that are sent as they were stored."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

_HEADERS = {
    "Accept-Ranges": "bytes: a part can be asked for with Range.",
    "Allow": "The methods that this address answers.",
    "Content-Range": "Which bytes of how many these are.",
    "ETag": "The SHA-256 of the body, in quotes.",
    "Location": "Where what was made stands.",
    "Retry-After": "In how many seconds the request may succeed.",
    "Tus-Extension": "What of the tus protocol is supported.",
    "Tus-Max-Size": "Bytes that an upload may have.",
    "Tus-Resumable": "The version of the tus protocol.",
    "Tus-Version": "The versions of the tus protocol that are supported.",
    "Upload-Expires": "When an unfinished upload is removed.",
    "Upload-Length": "Bytes of the whole.",
    "Upload-Offset": "Bytes that have arrived.",
    "WWW-Authenticate": "How to send a key.",
}
_NUMBERS = ("Retry-After", "Tus-Max-Size", "Upload-Length", "Upload-Offset")


def declared(status: int, *headers: str, description: str | None = None, **members: Any) -> dict[str, Any]:
    """The answer with this status and these headers."""
    return {
        "description": description or HTTPStatus(status).phrase,
        "headers": {
            name: {
                "description": _HEADERS[name],
                "schema": {"type": "integer", "minimum": 0} if name in _NUMBERS else {"type": "string"},
            }
            for name in headers
        },
        **members,
    }


def sent_header(name: str, description: str, schema: dict[str, Any], *, required: bool = True) -> dict[str, Any]:
    """A header of a request that is read by hand."""
    return {"name": name, "in": "header", "required": required, "description": description, "schema": schema}


def reference(name: str) -> dict[str, str]:
    """The schema of this name."""
    return {"$ref": f"#/components/schemas/{name}"}
