"""One job as a library: `plan`, `apply`, `certify` and `audit`. No database, no HTTP, no Celery.

`pipeline.table` shows the stages on one page, `pipeline.job` the calls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.job import apply, audit, certify, plan
    from pipeline.stage import JobResult, Machine

__all__ = ["JobResult", "Machine", "apply", "audit", "certify", "plan"]

_HOMES = {"JobResult": "pipeline.stage", "Machine": "pipeline.stage"}


def __getattr__(name: str) -> Any:
    """The calls, and with them torch and ONNX Runtime, are loaded when they are first asked for: a worker's own process
    knows the events of a job and never runs one."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    try:
        home = import_module(_HOMES.get(name, "pipeline.job"))
    except ModuleNotFoundError as error:
        remedy = "the library runs networks: pip install 'bitbudget[worker]'"
        raise ModuleNotFoundError(f"{error}; {remedy}", name=error.name, path=error.path) from error
    return getattr(home, name)
