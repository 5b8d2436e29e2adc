"""Changing what jobs and uploads are called, and what is kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel

from app.schemas.labels import JobLabels, UploadLabels
from app.schemas.parsing import merge, parse_labels
from app.services.jobs import known_id as known_job
from app.services.jobs import unknown_job
from app.services.uploads import known_id as known_upload
from app.services.uploads import unknown_upload
from app.store.audit import record
from app.store.engine import Sessions
from app.store.jobs import lock_job
from app.store.tables import JobRow, UploadRow
from app.store.uploads import lock_upload, name_of_nameless

Labels = TypeVar("Labels", bound=BaseModel)


def label_job(sessions: Sessions, job_id: str, changes: Mapping[str, Any]) -> JobRow:
    """Merge `changes` into the labels of a job (RFC 7396: null means the default).

    Raises:
        AppError: `not_found`, `request_invalid`.
    """
    with sessions.begin() as session:
        job = lock_job(session, known_job(job_id))
        if job is None:
            raise unknown_job(job_id)
        set_labels(job, _merged(JobLabels, job, changes))
        record(session, "job.change", f"/v1/jobs/{job_id}", changes)
        return job


def label_upload(sessions: Sessions, kind: str, upload_id: str, changes: Mapping[str, Any]) -> UploadRow:
    """Merge `changes` into the labels of a model or dataset (`kind`), as `label_job`.

    Raises:
        AppError: `not_found`, `request_invalid`.
    """
    with sessions.begin() as session:
        upload = lock_upload(session, kind, known_upload(kind, upload_id))
        if upload is None:
            raise unknown_upload(kind, upload_id)
        labels = _merged(UploadLabels, upload, changes)
        set_labels(upload, labels)
        upload.name = labels.name or name_of_nameless(upload_id)
        record(session, "upload.change", f"/v1/{kind}s/{upload_id}", changes)
        return upload


def set_labels(row: JobRow | UploadRow, labels: BaseModel) -> None:
    """Write the labels into the row."""
    for name, value in labels.model_dump(mode="json").items():
        setattr(row, name, (value or None) if name == "tags" else value)


def _merged(model: type[Labels], row: JobRow | UploadRow, changes: Mapping[str, Any]) -> Labels:
    return parse_labels(model, merge({name: getattr(row, name) for name in model.model_fields}, changes))
