"""Jobs that have ended with results that a test has written."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import Any

from app.lifecycle import claims
from app.lifecycle.states import Artifact, Outcome
from app.store.blobs import write_bytes
from tests.app.claiming import claim_job

LEASE = timedelta(seconds=30)


def finished(
    server: Any,
    request: Mapping[str, Any] = MappingProxyType({}),
    outcome: Outcome = Outcome.MET,
    summary: Mapping[str, Any] = MappingProxyType({}),
    **artifacts: bytes,
) -> str:
    """A job with these results, by their kind; its id."""
    job_id: str = server.submit(**request)["id"]
    claim = claim_job(server.sessions, job_id, "worker", LEASE)
    assert claim is not None
    stored = {
        kind: Artifact(
            write_bytes(server.sessions, data), "application/octet-stream" if kind == "model" else "application/json"
        )
        for kind, data in artifacts.items()
    }
    assert claims.finish(server.sessions, claim, outcome, dict(summary), stored)
    return job_id
