"""Client of bitbudget: quantize ONNX networks to mixed precision within a measured accuracy budget."""

from bitbudget_client.async_client import AsyncCertifiedFile, AsyncClient, AsyncResult
from bitbudget_client.documents import Certificate, Event, FrontierPoint, Job, Layer, Upload
from bitbudget_client.errors import (
    BitbudgetError,
    Damaged,
    FieldError,
    Invalid,
    JobCancelled,
    JobFailed,
    NotAllowed,
    NotFound,
    Problem,
    Unavailable,
    Unreachable,
)
from bitbudget_client.sync_client import CertifiedFile, Client, Result
from bitbudget_client.version import __version__

__all__ = [
    "AsyncCertifiedFile",
    "AsyncClient",
    "AsyncResult",
    "BitbudgetError",
    "Certificate",
    "CertifiedFile",
    "Client",
    "Damaged",
    "Event",
    "FieldError",
    "FrontierPoint",
    "Invalid",
    "Job",
    "JobCancelled",
    "JobFailed",
    "Layer",
    "NotAllowed",
    "NotFound",
    "Problem",
    "Result",
    "Unavailable",
    "Unreachable",
    "Upload",
    "__version__",
]
