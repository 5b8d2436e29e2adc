"""docs/operations.md says what the code does: settings with their defaults, metrics, calls; and no SQL by hand."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.api.metrics import Metrics
from app.dispatcher import CLEAN_SECONDS
from app.main import create_app
from app.settings import PREFIX, Settings
from app.store.engine import Sessions


@pytest.fixture
def operations(page: Callable[[str], Any]) -> Any:
    return page("operations")


def test_every_setting_is_described_with_its_default(operations: Any) -> None:
    told = {name.strip("`"): default.strip("`") for name, default, _ in operations.rows("Settings")}
    settings = Settings()
    expected = {}
    for name in Settings.model_fields:
        value = getattr(settings, name)
        expected[PREFIX + name.upper()] = f"{value:g}" if isinstance(value, float) else str(value)
    # What depends on the machine is told in words.
    expected |= {
        "BITBUDGET_HOME": "~/.bitbudget",
        "BITBUDGET_DATABASE_URL": "sqlite:///$BITBUDGET_HOME/bitbudget.db",
        "BITBUDGET_TMP_DIR": "$BITBUDGET_HOME/tmp",
        "BITBUDGET_ALLOWED_HOSTS": "by the address",
        "BITBUDGET_WEBHOOK_NETWORKS": "none",
        "BITBUDGET_WORKER_MEMORY_BYTES": "none",
        "BITBUDGET_METRICS_TOKEN": "none",
        "BITBUDGET_KEEP_DAYS": "for ever",
        **{name: "none" for name in expected if name.startswith("BITBUDGET_QUOTA_")},
        "BITBUDGET_WORKER_THREADS": "every core",
        "BITBUDGET_S3_ENDPOINT": "none",
    }
    assert told == expected
    assert settings.worker_memory_bytes is settings.worker_threads is None
    assert (settings.home, settings.tmp_dir) == (Path.home() / ".bitbudget", Path.home() / ".bitbudget" / "tmp")


def test_every_metric_is_listed(operations: Any, sessions: Sessions) -> None:
    told = {name.strip("`").removesuffix("_total") for name, _ in operations.rows("Health and metrics")}
    assert told == {family.name for family in Metrics(sessions).registry.collect()}


def test_nobody_is_sent_to_the_tables(documented: list[Any]) -> None:
    for page in documented:
        assert page.blocks("sql") == []
        assert not re.search(r"\b(SELECT|DELETE FROM|UPDATE) ", page.text), page.path.name


def test_what_frees_room_is_a_call_or_a_command(operations: Any, tmp_path: Path) -> None:
    told = operations.section("Freeing space")
    calls = create_app(Settings(home=tmp_path)).openapi()["paths"]
    for method, path in re.findall(r"(DELETE|PATCH|GET) (/v1/[\w/{}]+)", told):
        assert method.lower() in calls[path], f"{method} {path}"
    assert re.findall(r"Every (\w+) minutes", told) == ["ten"]
    assert CLEAN_SECONDS == 600
