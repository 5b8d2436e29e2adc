"""Two projects see nothing of each other, whatever they know: the benchmark's calls, shortened."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Select

from app.settings import Settings
from app.store import jobs
from app.store.tables import JobRow
from benchmarks.service.isolation import fuzzed, two_tenants
from benchmarks.service.tenants import Tenant


@pytest.fixture
def tenants(serve: Callable[..., Any], settings: Settings) -> Iterator[tuple[Tenant, Tenant]]:
    server = serve(settings.model_copy(update={"auth": "keys"}))
    with two_tenants(server.sessions, str(server.client.base_url)) as both:
        yield both


def test_nothing_of_one_project_is_shown_to_another(tenants: tuple[Tenant, Tenant]) -> None:
    found = fuzzed(*tenants, calls=200, seed=1)
    assert found.leaks == []
    assert found.calls >= 200
    assert {200, 202, 404} <= set(found.by_status)
    assert 500 not in found.by_status


def test_the_calls_find_a_hole(tenants: tuple[Tenant, Tenant], monkeypatch: pytest.MonkeyPatch) -> None:
    def of_anybody(session: Any, job_id: str) -> JobRow | None:
        query: Select[tuple[JobRow]] = Select(JobRow).where(JobRow.id == job_id)
        return session.scalar(query)

    monkeypatch.setattr(jobs, "find_job", of_anybody)
    found = fuzzed(*tenants, calls=200, seed=1)
    assert any("is answered 200" in leak for leak in found.leaks)
    assert any(" shows " in leak for leak in found.leaks)
