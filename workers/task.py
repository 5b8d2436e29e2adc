"""The Celery task, and what happens in a child process when it starts, ends, and has to stop.

Celery imports this module in the worker and again in every child, which is a fresh interpreter (spawn); the pipeline,
and with it torch, is imported in the children only.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from datetime import timedelta
from typing import Any

from celery import current_app, shared_task, signals

from app.lifecycle.messages import TASK_NAME
from app.logs import configure_logging
from app.settings import Settings
from app.store.engine import open_sessions
from app.supervisor import owner_name
from workers.job import Worker, load_table
from workers.limits import limit_memory, thread_count, watch

logger = logging.getLogger(__name__)

REPORT_SECONDS = 1.0
"""Time in which a child that is going to end tells the worker that its task is done."""

_worker: Worker | None = None
"""Set once in every child, by `start_child`; None in the worker itself."""


def run_job(job_id: str) -> str:
    """Run the job with this id, if it is there to be run; what became of it, for the log."""
    if _worker is None:
        raise RuntimeError("this process was not started as a child of a worker")
    return str(_worker.run(job_id))


def _log_as_the_service(**_: Any) -> None:
    # Connecting to this signal is how Celery is told to leave logging alone.
    configure_logging()


def _start_child(**_: Any) -> None:
    # Celery logs what a receiver raises and goes on; a child without an engine would swallow message after message.
    try:
        start_child(os.getppid())
    except Exception:
        logger.critical("this worker cannot start its process for jobs, and stops", exc_info=True)
        os.kill(os.getppid(), signal.SIGTERM)
        os._exit(1)


def start_child(parent: int) -> None:
    """Make this process ready for jobs: its limits, its pipeline, and its own database connections.

    The engine is made here because connections must not be shared between processes.
    """
    global _worker
    watch(parent, on_stop=_asked_to_stop, on_orphaned=lambda: os._exit(1))
    settings = Settings()
    threads = thread_count(settings.worker_threads)
    # Read by OpenMP and OpenBLAS when they are loaded, which the import of the pipeline does; ONNX Runtime and torch
    # are told again by whoever uses them. Torch's threads sleep between operators instead of spinning, and numpy has
    # none of its own: two pools that spin take the cores from each other (calibration of a ResNet20 on two busy cores:
    # 56 s with both, 6 s like this).
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    table = load_table(current_app.conf.bitbudget_pipeline)
    _limit_torch(threads)
    if settings.worker_memory_bytes is not None:
        limit_memory(settings.worker_memory_bytes)
    owner = owner_name(current_app.conf.bitbudget_worker_name, os.getpid())
    grace = timedelta(seconds=current_app.conf.bitbudget_grace_seconds)
    _worker = Worker(open_sessions(settings.database_url), settings, owner, table, grace)


def _end_child(**_: Any) -> None:
    if _worker is not None:
        _worker.sessions.dispose()


def _asked_to_stop() -> None:
    """Give the running job back and end. In a thread of its own: the thread that calls this watches the parent."""
    threading.Thread(target=_stop, name="stop", daemon=True).start()


def _stop() -> None:
    if _worker is not None:
        _worker.stop()
        while _worker.busy:
            time.sleep(0.05)
        time.sleep(REPORT_SECONDS)
    os._exit(0)


def _limit_torch(threads: int) -> None:
    torch = sys.modules.get("torch")  # a pipeline without torch (in tests) does not pay two seconds for it
    if torch is not None:
        torch.set_num_threads(threads)
        # Layers run one after the other; a second pool of threads would only fight the first for the cores.
        torch.set_num_interop_threads(1)


# Celery finds these when it imports the module; as calls, because its decorators have no types.
shared_task(name=TASK_NAME)(run_job)
signals.setup_logging.connect(_log_as_the_service)
signals.worker_process_init.connect(_start_child)
signals.worker_process_shutdown.connect(_end_child)
