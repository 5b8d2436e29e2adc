"""What a blob is for those who have one, and what may be wrong with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


class BlobDamaged(RuntimeError):
    """Stored contents do not have the digest under which they are stored."""


class BlobMissing(LookupError):
    """There are no complete contents under this number."""


class Source(Protocol):
    """What contents are read from."""

    def read(self, size: int, /) -> bytes:
        """The next bytes, at most `size`; none at the end."""


@dataclass(frozen=True, slots=True)
class BlobRef:
    """Complete contents in the store."""

    id: int
    sha256: str
    size_bytes: int
    location: str | None = field(default=None, repr=False)
    """Where the contents lie beside the database; None: in it."""

    def __post_init__(self) -> None:
        if len(self.sha256) != 64 or self.size_bytes < 0:
            raise ValueError(f"no blob has digest {self.sha256!r} and size {self.size_bytes}")
