"""What the package installs only when asked for."""

from __future__ import annotations

from importlib.util import find_spec

from app.cli.output import Refused

RUNS_JOBS = ("torch", "onnx", "onnxruntime")


def require_worker() -> None:
    """Raises:
    Refused: what runs jobs is not installed.
    """
    missing = [name for name in RUNS_JOBS if find_spec(name) is None]
    if missing:
        raise Refused(
            f"jobs run with {', '.join(missing)}, not installed here: pip install 'bitbudget[worker]', or send the job "
            "to a server with `bitbudget submit --server`; `bitbudget serve --no-worker` serves without running jobs"
        )
