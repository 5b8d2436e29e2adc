"""The Celery application of a worker: a message wakes it up, the database says what to do.

Everything that makes a job safe (claims, leases, attempts) is in `app.lifecycle`; processes for jobs are started and
ended by `workers.desk`, and not by Celery, whose pools can neither limit nor replace what native code holds up.
"""

from __future__ import annotations

from celery import Celery

from app.lifecycle import messages
from app.settings import Settings
from workers.desk import Desk


def create_app(settings: Settings, desk: Desk) -> Celery:
    """The Celery application of a worker that works at `desk`."""
    app = messages.celery_app(settings)
    if settings.broker_url.startswith("filesystem:"):
        app.conf.broker_transport = "workers.file_broker:Transport"
        # kombu looks into the folder once a second; that is a second of nothing for each job.
        app.conf.broker_transport_options["polling_interval"] = 0.2
    app.conf.update(
        include=["workers.task"],
        # Read by `workers.task`, which Celery imports in this process.
        bitbudget_desk=desk,
        # The task runs in the worker's first thread, which only waits: models run in a process of their own.
        worker_pool="solo",
        # A message taken early would wait behind a long job while another worker is idle. Redis keeps even the one
        # that the multiplier allows in the queue.
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=settings.broker_url.startswith("redis"),
        # A message is a hint: the claim in the database decides who works, and the dispatcher sends others. Late
        # acknowledgement would add Redis's own redelivery, an hour later, uncapped.
        task_acks_late=False,
        task_reject_on_worker_lost=False,
        # Results are rows and blobs, written with the state of the job in one transaction.
        result_backend=None,
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
