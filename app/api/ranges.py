"""A part of a download (RFC 9110, section 14): one range of bytes, by whoever has the rest already."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header, Request

from app.api.heads import asks_for_head

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Part:
    """The bytes from `start` to before `stop`."""

    start: int
    stop: int


class Unsatisfiable(ValueError):
    """The range lies behind the end."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a request for a download says about the answer that it wants."""

    if_none_match: str | None = None
    range: str | None = None
    if_range: str | None = None
    head: bool = False

    def has_already(self, digest: str) -> bool:
        """Whether the client has the contents with this digest."""
        # Section 13.1.2: weak comparison, and `*` matches whatever there is.
        tags = [tag.strip().removeprefix("W/").strip('"') for tag in (self.if_none_match or "").split(",")]
        return "*" in tags or digest in tags

    def part(self, digest: str, size_bytes: int) -> Part | None:
        """The part to send; None: all. Several ranges, and units other than bytes, are answered with all.

        Raises:
            Unsatisfiable: there are no such bytes.
        """
        # Section 13.1.5: strong comparison. A time is none of our validators.
        if self.range is None or self.head or (self.if_range is not None and self.if_range.strip() != f'"{digest}"'):
            return None
        asked = _RANGE.fullmatch(self.range.strip())
        if asked is None or asked[1] == asked[2] == "":
            return None
        if asked[1] == "":
            length = min(int(asked[2]), size_bytes)
            if length == 0:
                raise Unsatisfiable(self.range)
            return Part(size_bytes - length, size_bytes)
        start = int(asked[1])
        last = int(asked[2]) if asked[2] else max(start, size_bytes - 1)
        if last < start:
            return None  # not valid, and so ignored
        if start >= size_bytes:
            raise Unsatisfiable(self.range)
        return Part(start, min(last + 1, size_bytes))


def _conditions(
    request: Request,
    if_none_match: Annotated[str | None, Header(alias="If-None-Match")] = None,
    range_: Annotated[str | None, Header(alias="Range", description="One range of bytes, e.g. bytes=1000-.")] = None,
    if_range: Annotated[
        str | None, Header(alias="If-Range", description="The ETag of which Range is a part; of another one: all.")
    ] = None,
) -> Conditions:
    return Conditions(if_none_match, range_, if_range, asks_for_head(request))


Wanted = Annotated[Conditions, Depends(_conditions)]
