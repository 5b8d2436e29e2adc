"""Examples of requests and answers in the description of the API. A test holds each against its schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.schemas.job_request import JobRequest

_MODEL = "4b68ab3847feda7d6c62c1fbcbeebfa35eab7351ed5e78f4ddadea5df64b8015"
_DATA = "a7ffc6f8bf1ed76651c14756a061d662f580ff4de43b49fa82d80a4b80f8434a"
_QUANTIZED = "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"
_JOB_ID = "0123456789abcdef0123456789abcdef"
_KEY_ID = "fedcba9876543210fedcba9876543210"
_AT = "2026-01-31T12:00:00Z"

REQUESTS: Mapping[str, Any] = {
    "submit_job": {
        "model_id": _MODEL,
        "dataset_id": _DATA,
        "budget": {"metric": "top1", "max_drop": 0.01},
        "name": "resnet",
    },
    "replan_job": {"budget": {"max_drop": 0.02}},
    "patch_job": {"name": "resnet, first try", "tags": ["vision"]},
    "certify_file": {"model_id": _MODEL, "quantized_id": _QUANTIZED, "dataset_id": _DATA, "budget": {"max_drop": 0.02}},
    "patch_model": {"name": "resnet.onnx", "tags": ["vision"]},
    "patch_dataset": {"name": "digits.npz", "pinned": True},
    "create_key": {"role": "member", "label": "continuous integration", "expires_in_days": 90},
    "create_webhook": {"url": "https://ci.example.com/bitbudget", "events": ["job.succeeded", "job.failed"]},
}
"""By operation."""

_UPLOAD = {
    "id": _MODEL,
    "name": "resnet.onnx",
    "tags": ["vision"],
    "pinned": False,
    "size_bytes": 315_392,
    "sha256": _MODEL,
    "created_at": _AT,
    "used_at": None,
}
_JOB = {
    "id": _JOB_ID,
    "name": "resnet",
    "tags": [],
    "priority": 0,
    "pinned": False,
    "state": "running",
    "outcome": None,
    "stage": "cross_layer",
    "progress": 0.35,
    "eta_seconds": 42.0,
    "estimate": {"stage": "job", "seconds": 62.5, "memory_bytes": 720_000_000, "float_passes": 28.1},
    "cancel_requested": False,
    "attempt": 1,
    "model_id": _MODEL,
    "dataset_id": _DATA,
    "parent_id": None,
    "created_at": _AT,
    "started_at": _AT,
    "finished_at": None,
    "request": JobRequest.model_validate_json(
        f'{{"model_id": "{_MODEL}", "dataset_id": "{_DATA}", "budget": {{"metric": "top1"}}}}'
    ).model_dump(mode="json"),
    "summary": None,
    "error": None,
}
_KEY = {
    "id": _KEY_ID,
    "role": "member",
    "label": "continuous integration",
    "created_at": _AT,
    "expires_at": None,
    "revoked_at": None,
    "used_at": None,
}
_WEBHOOK = {
    "id": _KEY_ID,
    "url": "https://ci.example.com/bitbudget",
    "events": ["job.succeeded", "job.failed"],
    "created_at": _AT,
    "failing_since": None,
    "pending": 0,
}
_DELIVERY = {
    "id": "msg_0123456789abcdef",
    "kind": "job.succeeded",
    "job_id": _JOB_ID,
    "state": "delivered",
    "attempts": 1,
    "status": 200,
    "last_error": None,
    "created_at": _AT,
    "tried_at": _AT,
    "next_at": None,
    "delivered_at": _AT,
    "payload": {"type": "job.succeeded", "timestamp": _AT, "data": {"id": _JOB_ID, "state": "succeeded"}},
}
_USED = {"used": 3, "quota": None}

ANSWERS: Mapping[str, Any] = {
    "Upload": _UPLOAD,
    "UploadList": {"uploads": [_UPLOAD], "next_cursor": None},
    "OpenUpload": {
        "id": _KEY_ID,
        "kind": "model",
        "name": "resnet.onnx",
        "size_bytes": 315_392,
        "received_bytes": 262_144,
        "expires_at": _AT,
        "upload_id": None,
    },
    "ModelDescription": {
        "state": "ready",
        "inputs": [{"name": "image", "dtype": "float32", "shape": [None, 1, 8, 8]}],
        "outputs": [{"name": "logits", "dtype": "float32", "shape": [None, 10]}],
        "opset": 18,
        "producer": "pytorch",
        "weights": 77_370,
        "weight_bytes": 309_480,
        "nodes": 22,
        "operators": {"Conv": 10, "Relu": 7, "Add": 3, "ReduceMean": 1, "Gemm": 1},
    },
    "DatasetDescription": {
        "state": "ready",
        "form": "npz",
        "arrays": [
            {
                "name": "image",
                "dtype": "float32",
                "shape": [1198, 1, 8, 8],
                "role": "input",
                "minimum": 0.0,
                "maximum": 1.0,
                "mean": 0.31,
            }
        ],
        "samples": 1198,
        "labels": {"classes": 2, "counts": {"0": 600, "1": 598}},
        "thumbnails": [],
        "notes": [],
    },
    "PendingDescription": {"state": "pending"},
    "Job": _JOB,
    "JobList": {"jobs": [_JOB], "next_cursor": None},
    "FrontierDocument": {
        "cost": "size",
        "unit": "bytes",
        "points": [
            {
                "cost": 52_100,
                "predicted_damage": 0.0021,
                "bits": {"conv1": 4, "fc": 8},
                "formats": {"conv1": "int4/channel", "fc": "int8/channel"},
                "measured": {"drop": 0.004, "stderr": 0.002},
                "chosen": True,
            }
        ],
    },
    "SamplesDocument": {
        "version": 1,
        "metric": "top1",
        "samples": [
            {
                "index": 746,
                "lost": 1.0,
                "right": 8,
                "thumbnail": None,
                "outputs": [
                    {
                        "name": "logits",
                        "meaning": "classes",
                        "rows": [
                            {"at": [8], "float": 0.36, "quantized": 0.32},
                            {"at": [7], "float": 0.26, "quantized": 0.34},
                        ],
                    }
                ],
            }
        ],
    },
    "Key": _KEY,
    "KeyList": {"keys": [_KEY]},
    "NewKey": {**_KEY, "key": "bb_EXAMPLE"},
    "Project": {
        "name": "vision",
        "role": "admin",
        "key_id": _KEY_ID,
        "quotas": {"bytes": 10_000_000_000, "queued": 100, "running": 4, "samples": None, "requests_per_minute": 600},
    },
    "Usage": {
        "bytes": _USED,
        "queued": _USED,
        "running": _USED,
        "requests_per_minute": _USED,
        "jobs": {"queued": 1, "running": 2, "succeeded": 17, "failed": 0, "cancelled": 0},
    },
    "AuditList": {
        "entries": [
            {"at": _AT, "key_id": _KEY_ID, "action": "job.cancel", "subject": f"/v1/jobs/{_JOB_ID}", "detail": {}}
        ],
        "next_cursor": None,
    },
    "WebhookList": {"webhooks": [_WEBHOOK]},
    "NewWebhook": {**_WEBHOOK, "secret": "whsec_EXAMPLE"},
    "Delivery": _DELIVERY,
    "DeliveryList": {"deliveries": [_DELIVERY], "next_cursor": None},
    "Health": {"status": "ok"},
    "Readiness": {"status": "ready", "workers": 2, "progressing": 2, "oldest_queued_seconds": None},
}
"""By the schema of the answer."""
