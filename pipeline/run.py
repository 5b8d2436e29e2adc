"""One job in this process: the stages in order, each run or found, then the report."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

from pipeline.context import Context
from pipeline.events import Report, silent
from pipeline.stage import JobResult, Machine, Table, Upload
from pipeline.store import FolderStore, MemoryStore, Store

if TYPE_CHECKING:
    from app.schemas.certificate_request import CertificateRequest
    from app.schemas.job_request import JobRequest


@overload
def run(
    table: Table,
    request: JobRequest | CertificateRequest,
    uploads: Mapping[str, Upload],
    *,
    cache: str | Path | Store | None = None,
    progress: Report = silent,
    machine: Machine,
    job_id: str | None = None,
    elapsed_seconds: float = 0.0,
    helping: Literal[False] = False,
) -> JobResult: ...


@overload
def run(
    table: Table,
    request: JobRequest | CertificateRequest,
    uploads: Mapping[str, Upload],
    *,
    cache: str | Path | Store | None = None,
    progress: Report = silent,
    machine: Machine,
    job_id: str | None = None,
    elapsed_seconds: float = 0.0,
    helping: bool,
) -> JobResult | None: ...


def run(
    table: Table,
    request: JobRequest | CertificateRequest,
    uploads: Mapping[str, Upload],
    *,
    cache: str | Path | Store | None = None,
    progress: Report = silent,
    machine: Machine,
    job_id: str | None = None,
    elapsed_seconds: float = 0.0,
    helping: bool = False,
) -> JobResult | None:
    """Run the stages that have no result yet, and report.

    Args:
        uploads: by kind, one of `UPLOADS`: the model, and what else the request names.
        job_id: a name of the job's own; with it a job that has a deadline finds what an earlier attempt stored.
        elapsed_seconds: what earlier attempts took of the deadline.
        helping: another process runs the same job with the same `cache`, which is needed then, `job_id` and threads:
            take chunks of its stages until all have results, and report nothing. What this raises says nothing of the
            job: its leader meets the same.
    """
    config = table.configure(request, machine, job_id or uuid.uuid4().hex)
    stages = table.needed(config)
    context = Context(stages, config, uploads, _store(cache), progress, machine, elapsed_seconds, helping)
    for stage in stages:
        table.run(stage, context, config)
    return None if helping else table.report(context, config.report)


def _store(cache: str | Path | Store | None) -> Store:
    if cache is None:
        return MemoryStore()
    return FolderStore(Path(cache)) if isinstance(cache, str | Path) else cache
