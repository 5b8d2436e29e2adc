"""How much a project may take."""

from __future__ import annotations

from dataclasses import dataclass

from app.settings import Settings
from app.store.tables import ProjectRow


@dataclass(frozen=True, slots=True)
class Quotas:
    """Limits of one project; None: no limit."""

    bytes: int | None = None
    """Contents that are stored: uploads, results, and the cache of analyses."""
    queued: int | None = None
    """Jobs that wait."""
    running: int | None = None
    """Jobs that run at once; more of them wait."""
    samples: int | None = None
    """Samples of one dataset."""
    requests_per_minute: int | None = None


def quotas_of(project: ProjectRow | None, settings: Settings) -> Quotas:
    """The quotas of a project: its own, and those of the settings where it has none."""
    own = project or ProjectRow()
    return Quotas(
        bytes=_first(own.max_bytes, settings.quota_bytes),
        queued=_first(own.max_queued, settings.quota_queued),
        running=_first(own.max_running, settings.quota_running),
        samples=_first(own.max_samples, settings.quota_samples),
        requests_per_minute=_first(own.max_requests_per_minute, settings.quota_requests_per_minute),
    )


def _first(own: int | None, default: int | None) -> int | None:
    return default if own is None else own
