"""Plain logging to standard error, one format for server, worker and dispatcher."""

from __future__ import annotations

import logging
import time

_FORMAT = "%(asctime)sZ %(levelname)s %(name)s[%(process)d]: %(message)s"

# Libraries that log too much at INFO, each with the lowest level that is worth a line.
_QUIETER = {
    "alembic": logging.WARNING,
    "httpx": logging.WARNING,
    "onnx_ir": logging.WARNING,
    "onnxscript": logging.WARNING,
    # one INFO line for each message: a message is only a hint, the job's own lines say what happened
    "celery": logging.WARNING,
    # a traceback of Celery's own for each process that died; `workers.presence` says what is done about it
    "celery.worker.request": logging.CRITICAL,
    # "No hostname was supplied": a broker of files has none
    "kombu": logging.ERROR,
}


def configure_logging(level: int = logging.INFO) -> None:
    """Log to standard error at `level` and above, times in UTC. Replaces what was configured before."""
    formatter = logging.Formatter(_FORMAT, datefmt="%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name, quieter in _QUIETER.items():
        logging.getLogger(name).setLevel(max(level, quieter))
