"""`python -m workers`: one worker. `bitbudget worker` starts it, and `bitbudget serve` with `--watched`."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
import warnings

from celery.exceptions import SecurityWarning

from app.logs import configure_logging
from app.settings import Settings
from app.supervisor import new_worker_name
from workers.app import STOP_SECONDS, create_app
from workers.limits import check_memory_limit
from workers.presence import Presence

logger = logging.getLogger(__name__)


def main() -> None:
    """Run a worker until it has to stop."""
    arguments = _parse(sys.argv[1:])
    configure_logging()
    if arguments.watched:
        _end_with_standard_input()
    settings = Settings()
    check_memory_limit(settings.worker_memory_bytes)
    _quiet()
    name = arguments.name or new_worker_name()
    Presence(settings, name, arguments.grace).connect()
    celery = create_app(settings, name=name, pipeline=arguments.pipeline, grace_seconds=arguments.grace)
    # Gossip, mingle and Celery's heartbeat speak to other workers over the broker; ours speak through the database.
    celery.worker_main(["--quiet", "worker", "--without-gossip", "--without-mingle", "--without-heartbeat"])


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m workers", description="Work on jobs of bitbudget.")
    parser.add_argument("--name", help="name of this worker; must be its own (default: host, process and chance)")
    parser.add_argument(
        "--pipeline", default="pipeline.table", help="module with a TABLE of stages (default: %(default)s)"
    )
    parser.add_argument(
        "--grace",
        type=float,
        default=STOP_SECONDS,
        help="seconds that a job may go on once it has to stop, before its process is ended (default: %(default)s)",
    )
    parser.add_argument(
        "--watched", action="store_true", help="end at once, with all children, when standard input ends"
    )
    return parser.parse_args(arguments)


def _end_with_standard_input() -> None:
    """End the process group when the other end of standard input is gone.

    The supervisor holds that end. However it ends, even by SIGKILL, the kernel closes it. The supervisor makes this
    process the leader of a group of its own, so nothing else is hit.
    """
    if os.getpgrp() != os.getpid():
        raise RuntimeError("--watched needs a process group of its own: start the worker in a new session")

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 1024):
            pass
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=wait, name="supervisor-watch", daemon=True).start()


def _quiet() -> None:
    """Silence two warnings that are not for whoever runs a worker."""
    # Celery warns when it runs as root because pickled messages could run code as root. Ours are JSON.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    # A process of billiard removes the semaphores of a worker that ended without doing it itself, which is how ours
    # end, and warns of each. It reads its filters from the environment.
    filters = [os.environ.get("PYTHONWARNINGS", ""), "ignore:semaphore_tracker"]
    os.environ["PYTHONWARNINGS"] = ",".join(part for part in filters if part)


if __name__ == "__main__":
    main()
