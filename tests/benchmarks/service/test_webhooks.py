"""The figure of webhooks under kills, shortened: every message arrives, however often dispatchers and receiver die."""

from __future__ import annotations

from benchmarks.service.webhooks import deliveries_under_kills


def test_every_message_arrives_while_dispatchers_are_killed(database_url: str) -> None:
    figures = deliveries_under_kills(8, 2, database_url=database_url)
    assert figures["webhook_messages"] >= 8
    assert figures["webhook_missing"] == figures["webhook_forged"] == 0
    assert figures["webhook_kills"] == 2
