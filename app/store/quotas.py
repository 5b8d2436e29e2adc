"""The limits of a project, as a value that its transactions carry."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Quotas:
    """How much a project may take; None: no limit."""

    bytes: int | None = None
    """Contents that are stored: uploads, results, and the cache of analyses."""
    queued: int | None = None
    """Jobs that wait."""
    running: int | None = None
    """Jobs that run at once; more of them wait."""
    samples: int | None = None
    """Samples of one dataset."""
    requests_per_minute: int | None = None


NO_QUOTAS = Quotas()
