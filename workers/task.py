"""The Celery task: a message came, so there may be work."""

from __future__ import annotations

from celery import current_app, shared_task, signals

from app.lifecycle.messages import TASK_NAME
from app.logs import configure_logging
from workers.desk import Desk


def wake() -> int:
    """Work until there is nothing to do; how many jobs were worked on, for the log."""
    desk: Desk = current_app.conf.bitbudget_desk
    return desk.work()


def _log_as_the_service(**_: object) -> None:
    # Connecting to this signal is how Celery is told to leave logging alone.
    configure_logging()


# Celery finds these when it imports the module; as calls, because its decorators have no types.
shared_task(name=TASK_NAME)(wake)
signals.setup_logging.connect(_log_as_the_service)
