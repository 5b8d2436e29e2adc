"""`python -m workers`: one worker. `bitbudget worker` starts it, and `bitbudget serve` with `--watched`."""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
import threading
import warnings
from pathlib import Path

from celery.exceptions import SecurityWarning

from app.lifecycle.messages import waker
from app.logs import configure_logging
from app.settings import Settings
from app.store.engine import open_sessions
from app.supervisor import new_worker_name
from app.tracing import configure_tracing
from workers.app import create_app
from workers.child_process import ChildGone
from workers.desk import Desk
from workers.limits import check_memory_limit, thread_count
from workers.presence import Presence


def main() -> None:
    """Run a worker until it has to stop."""
    arguments = _parse(sys.argv[1:])
    configure_logging()
    configure_tracing("worker")
    if arguments.watched:
        _end_with_standard_input()
    settings = Settings()
    check_memory_limit(settings.worker_memory_bytes)
    # Celery warns when it runs as root because pickled messages could run code as root. Ours are JSON.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    name = arguments.name or new_worker_name()
    sessions = open_sessions(settings.database_url, settings.objects())
    wake = waker(settings)
    desk = Desk(settings, sessions, name, arguments.pipeline, wake, processor(settings))
    Presence(settings, sessions, name, desk, wake).connect()
    try:
        desk.open()
    except ChildGone as error:
        sys.exit(f"the process for jobs {error}, before it had one; its error stands above")
    celery = create_app(settings, desk)
    # Gossip, mingle and Celery's heartbeat speak to other workers over the broker; ours speak through the database.
    celery.worker_main(["--quiet", "worker", "--without-gossip", "--without-mingle", "--without-heartbeat"])


def processor(settings: Settings) -> str:
    """What has to be the same where a job is helped with: the kind of the processor, threads and memory."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    use = f"{thread_count(settings.worker_threads)} threads, {settings.worker_memory_bytes or 'all'} bytes"
    return f"{name} ({platform.machine()}), {use}"[:255]


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m workers", description="Work on jobs of bitbudget.")
    parser.add_argument("--name", help="name of this worker; must be its own (default: host, process and chance)")
    parser.add_argument(
        "--pipeline", default="pipeline.table", help="module with a TABLE of stages (default: %(default)s)"
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


if __name__ == "__main__":
    main()
