"""Requests made from the API's own description, good ones and bad ones, and what in the answers is not as described.

python -m benchmarks.first_use.contract [EXAMPLES]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import schemathesis
from fastapi import FastAPI
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import Status, from_schema
from schemathesis.engine.events import FatalError, NonFatalError, ScenarioFinished

from app.access.keys import create_key
from app.access.projects import ensure_project
from app.access.roles import Role
from app.main import create_app
from app.settings import Settings
from app.store.engine import open_sessions
from app.store.migrate import upgrade

EXAMPLES = 20
OTHERWISE = {
    "missing_required_header": "the tus protocol wants 412, which the check does not know",
    "negative_data_rejection": "likewise; and parameters of other calls are ignored, as everywhere",
    "positive_data_acceptance": "rules between members stand in no schema, and a cursor comes from a page before",
}
"""Checks that are left out, and why."""
NOT_READY = "/readyz"
"""Answers 503 as long as there is no worker, and here is none."""


def contract_failures(
    max_examples: int = EXAMPLES, *, with_keys: bool = False, coverage: bool = True, seed: int = 1
) -> list[str]:
    """What is not as described, a line for each: the call, the check, and what was wrong.

    Args:
        max_examples: random requests for each call, besides those that the description itself suggests.
        coverage: whether every limit of every field is tried, which takes most of the time.
        with_keys: whether the service asks for keys; requests then come from an admin of a project.
    """
    with tempfile.TemporaryDirectory(prefix="bitbudget-contract-") as home:
        settings = Settings(
            home=Path(home),
            database_url=f"sqlite:///{home}/bitbudget.db",
            auth="keys" if with_keys else "none",
            webhook_timeout_seconds=0.1,  # nobody sends messages here, and a test of a webhook waits for one
            allowed_hosts="*",  # the name that the requests are sent to is made up
        )
        upgrade(settings.database_url)
        headers = _credentials(settings) if with_keys else {}
        return _failures(create_app(settings, wake=lambda: None), headers, max_examples, coverage, seed)


def _credentials(settings: Settings) -> dict[str, str]:
    sessions = open_sessions(settings.database_url)
    key = create_key(sessions.of(ensure_project(sessions, "contract").id), Role("admin"))[1]
    sessions.dispose()
    return {"Authorization": f"Bearer {key}"}


def _failures(app: FastAPI, headers: dict[str, str], max_examples: int, coverage: bool, seed: int) -> list[str]:
    config = SchemathesisConfig.from_dict(
        {
            "seed": seed,
            "continue-on-failure": True,
            "headers": headers,
            "request-timeout": 60.0,
            "generation": {"max-examples": max_examples, "database": "none"},
            "phases": {"stateful": {"enabled": False}, "coverage": {"enabled": coverage}},
            "checks": {name: {"enabled": False} for name in OTHERWISE},
            "operations": [{"include-path": NOT_READY, "checks": {"not_a_server_error": {"enabled": False}}}],
        }
    )
    schemathesis.serializer.alias("application/offset+octet-stream", "application/octet-stream")
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, config=config)
    failures: dict[str, None] = {}
    for event in from_schema(schema).execute():
        if isinstance(event, ScenarioFinished):
            for checks in event.recorder.checks.values():
                for check in checks:
                    if check.status is Status.FAILURE and check.failure_info is not None:
                        failure = check.failure_info.failure
                        failures[f"{event.recorder.label}: {check.name}: {failure.title}: {failure.message}"] = None
        elif isinstance(event, (NonFatalError, FatalError)):
            what = event.value if isinstance(event, NonFatalError) else event.exception
            raise RuntimeError(f"the requests could not be made: {what}") from what
    return list(failures)


def main() -> None:
    examples = int(sys.argv[1]) if len(sys.argv) > 1 else EXAMPLES
    for with_keys in (False, True):
        failures = contract_failures(examples, with_keys=with_keys)
        print(f"{'with' if with_keys else 'without'} keys: schemathesis_failures {len(failures)}")
        for failure in failures:
            print(failure)


if __name__ == "__main__":
    main()
