"""The figure of webhooks under kills, shortened: every message arrives, however often dispatchers and receiver die."""

from __future__ import annotations

from pathlib import Path

from benchmarks.service.webhooks import deliveries_under_kills


def test_every_message_arrives_while_dispatchers_are_killed(database_url: str, tmp_path: Path) -> None:
    figures = deliveries_under_kills(database_url, tmp_path, jobs_made=8, kills=2)
    assert figures["webhook_messages"] >= 8
    assert figures["webhook_missing"] == 0, (tmp_path / "dispatcher.log").read_text()
    assert figures["webhook_forged"] == 0
