"""Waking a worker up: a message sent by task name, so that `app` need not know the task.

A message says only that there may be work: whoever gets it claims the job whose turn it is. Losing one costs the
seconds until the dispatcher sends another; one that finds nothing costs a look into the database.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from celery import Celery

from app.settings import Settings
from app.store.private import private_folder

TASK_NAME = "bitbudget.wake"
QUEUE_NAME = "bitbudget"
BROKER_SECONDS = 2.0
STALE_SECONDS = 60.0
"""Age at which a message says nothing any more: the dispatcher has sent others since."""
PROCESSED = "processed"

logger = logging.getLogger(__name__)

Wake = Callable[[], None]
"""Tells one worker that there may be work. Never raises for a broker that is away: it logs that, and the dispatcher
repeats."""


def celery_app(settings: Settings) -> Celery:
    """A Celery application on the broker of these settings, without tasks; makes the broker's folders if it has any."""
    app = Celery("bitbudget", broker=settings.broker_url, set_as_current=False)
    app.conf.update(
        task_default_queue=QUEUE_NAME,
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,  # results are in the database; there is no result backend
        task_publish_retry=False,  # the request that announces its job must not wait for a broker that is away
        broker_connection_timeout=BROKER_SECONDS,
        broker_transport_options=_transport_options(settings),
    )
    return app


def waker(settings: Settings) -> Wake:
    """Sends on the broker of these settings; connects when it sends first."""
    app = celery_app(settings)

    def wake() -> None:
        try:
            app.send_task(TASK_NAME, expires=STALE_SECONDS)
        except Exception:
            # Each transport has its own errors, and none of them may undo a stored job.
            logger.warning("no worker could be told that there is work; the dispatcher will repeat it", exc_info=True)

    return wake


def broker_answers(settings: Settings) -> bool:
    """Whether the broker can be reached; one of files always can."""
    try:
        with celery_app(settings).connection_for_read() as connection:
            connection.ensure_connection(max_retries=1, timeout=BROKER_SECONDS)
    except Exception:  # noqa: BLE001 - each transport has its own errors
        return False
    return True


def clean_processed(settings: Settings, older_than: timedelta) -> int:
    """Remove the received messages that kombu's file transport keeps; returns how many."""
    limit = time.time() - older_than.total_seconds()
    removed = 0
    for path in (settings.broker_folder / PROCESSED).glob("*.msg"):
        # A move keeps the time of the sending; one that is not acknowledged yet would only be announced again.
        try:
            old = path.stat().st_mtime < limit
        except FileNotFoundError:
            continue  # another dispatcher cleans too
        if old:
            path.unlink(missing_ok=True)
            removed += 1
    return removed


def _transport_options(settings: Settings) -> dict[str, Any]:
    if not settings.broker_url.startswith("filesystem:"):
        return {
            "socket_connect_timeout": BROKER_SECONDS,
            "socket_timeout": 5 * BROKER_SECONDS,  # more than the second for which kombu lets a BRPOP wait
        }
    # Messages are moved from folder to folder. All three lie under one folder: a move between file systems is a copy,
    # which can be seen half done, and kombu's default for `processed` is the system's /tmp.
    folders = {name: settings.broker_folder / name for name in ("messages", PROCESSED, "control")}
    for folder in folders.values():
        private_folder(folder)
    return {
        "data_folder_in": str(folders["messages"]),
        "data_folder_out": str(folders["messages"]),  # one folder: what is sent is what is received
        "store_processed": True,
        "processed_folder": str(folders[PROCESSED]),
        "control_folder": str(folders["control"]),
    }
