"""The figure of half-open connections, shortened: /healthz answers, whether they are kept or let go."""

from __future__ import annotations

from benchmarks.service.half_open import healthz_under_half_open


def test_healthz_answers_while_a_crowd_holds_half_a_request_each() -> None:
    figures = healthz_under_half_open(300, looks=10)
    assert figures["healthz_failures"] == figures["healthz_failures_held"] == 0
    assert figures["half_open_held"] == 300
    assert set(figures) >= {"healthz_p95_ms_under_300_half_open", "healthz_p95_ms_under_300_half_open_held"}
