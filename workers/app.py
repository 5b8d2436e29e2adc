"""The Celery application of a worker: a message wakes a process up, the database says what to do.

Everything that makes a job safe (claims, leases, attempts) is in `app.lifecycle`; Celery starts processes, keeps one
job to a process, and replaces what dies.
"""

from __future__ import annotations

from celery import Celery

from app.lifecycle import messages
from app.settings import Settings

JOB_SECONDS = 24 * 3600.0
"""The longest job; stages have limits of their own in `pipeline.table`, this one is behind them all."""

STOP_SECONDS = 10.0
"""How long a job may go on once it has to stop, before its process is ended."""

JOBS_PER_PROCESS = 8


def create_app(settings: Settings, *, name: str, pipeline: str, grace_seconds: float = STOP_SECONDS) -> Celery:
    """The Celery application of the worker `name`, whose jobs run the stages of the module `pipeline`."""
    app = messages.celery_app(settings)
    if settings.broker_url.startswith("filesystem:"):
        app.conf.broker_transport = "workers.file_broker:Transport"
        # kombu looks into the folder once a second; that is a second of nothing for each job.
        app.conf.broker_transport_options["polling_interval"] = 0.2
    app.conf.update(
        # The child processes import it: it holds the task and what happens when a child starts.
        include=["workers.task"],
        # Read by `workers.task` in the child, which gets this configuration with the pickled application.
        bitbudget_worker_name=name,
        bitbudget_pipeline=pipeline,
        bitbudget_grace_seconds=grace_seconds,
        # Time limits work on prefork only; and a job that dies takes its own process and not the worker.
        worker_pool="prefork",
        # After a fork, torch's first matrix product never returns if the parent has run one.
        worker_pool_start_method="spawn",
        # One job uses every core; more workers, not more processes, make more jobs at once.
        worker_concurrency=1,
        # A message taken early would wait behind a long job while another worker is idle. Redis keeps even the one
        # that the multiplier allows in the queue.
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=settings.broker_url.startswith("redis"),
        # A message is a hint: the claim in the database decides who works, and a lost job is announced again by the
        # dispatcher within seconds. Late acknowledgement would add Redis's own redelivery, an hour later, uncapped.
        task_acks_late=False,
        task_reject_on_worker_lost=False,
        # Results are rows and blobs, written with the state of the job in one transaction.
        result_backend=None,
        # Arenas of the allocators grow with every model and are not given back.
        worker_max_tasks_per_child=JOBS_PER_PROCESS,
        # Importing torch and ONNX Runtime takes longer than the 4 seconds that Celery waits for a child by default.
        worker_proc_alive_timeout=120.0,
        # Behind the limits of the stages: an exception first, then the process, for code that does not return.
        task_soft_time_limit=JOB_SECONDS,
        task_time_limit=JOB_SECONDS + 60.0,
        # A broker that restarts is waited for, at the start and later, without end.
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # Health is a row in the database; nothing here listens to events or takes commands over the broker.
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        # Standard output is nobody's log.
        worker_redirect_stdouts=False,
    )
    return app
