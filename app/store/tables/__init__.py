"""The tables, one file for each matter. Times are UTC, sizes bytes, digests SHA-256 in lower-case hexadecimal."""

from app.store.tables.access import AuditRow, KeyRow, ProjectRow
from app.store.tables.base import DEFAULT_PROJECT, Base, UtcDateTime
from app.store.tables.blobs import BlobChunkRow, BlobRow, OpenUploadRow, UploadRow
from app.store.tables.descriptions import DescriptionRow
from app.store.tables.jobs import (
    ArtifactRow,
    ChunkClaimRow,
    IdempotencyRow,
    JobEventRow,
    JobLogRow,
    JobRow,
    JobUploadRow,
    StageResultRow,
)
from app.store.tables.webhooks import DeliveryRow, WebhookRow
from app.store.tables.workers import StageSecondsRow, WorkerRow

__all__ = [
    "DEFAULT_PROJECT",
    "ArtifactRow",
    "AuditRow",
    "Base",
    "BlobChunkRow",
    "BlobRow",
    "ChunkClaimRow",
    "DeliveryRow",
    "DescriptionRow",
    "IdempotencyRow",
    "JobEventRow",
    "JobLogRow",
    "JobRow",
    "JobUploadRow",
    "KeyRow",
    "OpenUploadRow",
    "ProjectRow",
    "StageResultRow",
    "StageSecondsRow",
    "UploadRow",
    "UtcDateTime",
    "WebhookRow",
    "WorkerRow",
]
