"""A project that has something of everything, and knows which of it nobody else may see."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import httpx

from app.lifecycle import claims
from app.lifecycle.states import Artifact, Outcome
from app.store.blobs import write_bytes
from app.store.engine import Sessions, clock
from app.store.job_logs import LogLine, add_lines
from app.store.jobs import add_event, find_job
from app.store.tables import DeliveryRow, WebhookRow

SHARED = b"the same bytes in every project"
TUS = {"Tus-Resumable": "1.0.0"}
KINDS = ("plan", "ort", "aimet", "frontier", "sensitivity", "model")


@dataclass
class Tenant:
    """A project with a client of its own.

    Attributes:
        marker: stands in every name, label, address and content of the project.
        ids: what stands for parameters of calls, by their names.
        hidden: texts that no answer to another project may hold.
    """

    client: httpx.Client
    marker: str
    ids: dict[str, list[str]] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)

    def hide(self, parameter: str, value: str) -> str:
        """Note an id of this project; gives it back."""
        self.ids.setdefault(parameter, []).append(value)
        self.hidden.add(value)
        return value

    def snapshot(self) -> str:
        """All that the project is shown of itself, but for the times at which its keys were used."""
        paths = [
            "/v1/models",
            "/v1/datasets",
            "/v1/jobs",
            "/v1/keys",
            "/v1/audit",
            "/v1/usage",
            "/v1/project",
            "/v1/webhooks",
        ]
        for job_id in self.ids["job_id"]:
            paths += [f"/v1/jobs/{job_id}{below}" for below in ("", "/events", "/log", "/plan", "/model.onnx")]
        paths += [f"/v1/uploads/{open_id}" for open_id in self.ids["open_id"]]
        shown: list[Any] = []
        for path in paths:
            answer = self.client.get(path)
            body = answer.text
            if path == "/v1/keys":
                body = json.dumps([{**key, "used_at": None} for key in answer.json()["keys"]])
            shown.append((path, answer.status_code, body))
        return json.dumps(shown)


def settled(client: httpx.Client, sessions: Sessions) -> Tenant:
    """Fill a project: uploads (one of them with the same bytes as everybody's), jobs with results, keys, a webhook.

    Args:
        client: with an admin's key to the project.
        sessions: of the project. No worker runs.
    """
    tenant = Tenant(client, f"hidden-{secrets.token_hex(8)}")
    tenant.hidden.add(tenant.marker)
    uploads = {}
    for kind in ("model", "dataset"):
        client.put(f"/v1/{kind}s", content=SHARED, params={"name": f"{tenant.marker}-shared"}).raise_for_status()
        own = client.put(f"/v1/{kind}s", content=f"{kind} {tenant.marker}".encode(), params={"name": tenant.marker})
        uploads[kind] = tenant.hide(f"{kind}_id", own.raise_for_status().json()["id"])
        tenant.hide("upload_id", uploads[kind])
        described = f"kind {_base64(kind)},name {_base64(tenant.marker)}"
        begun = client.post(
            "/v1/uploads", headers={**TUS, "Upload-Length": "1000", "Upload-Metadata": described}
        ).raise_for_status()
        tenant.hide("open_id", begun.headers["location"].rpartition("/")[2])
    about = {"model_id": uploads["model"], "dataset_id": uploads["dataset"]}
    _finished(tenant, sessions, "/v1/jobs", about, KINDS)
    about["quantized_id"] = uploads["model"]
    _finished(tenant, sessions, "/v1/certificates", about, ("certificate",))
    cancelled = client.post("/v1/jobs", json={"model_id": uploads["model"]}).raise_for_status().json()["id"]
    client.post(f"/v1/jobs/{tenant.hide('job_id', cancelled)}/cancel").raise_for_status()
    key = client.post("/v1/keys", json={"role": "viewer", "label": tenant.marker}).raise_for_status().json()
    tenant.hide("key_id", key["id"])
    tenant.hidden.add(key["key"])
    _add_webhook(tenant, sessions)
    tenant.ids["cursor"] = [
        page["next_cursor"]
        for path in ("/v1/jobs", "/v1/audit")
        if (page := client.get(path, params={"limit": 1}).json())["next_cursor"]
    ]
    tenant.ids["Idempotency-Key"] = [tenant.marker]
    return tenant


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _finished(tenant: Tenant, sessions: Sessions, path: str, about: dict[str, Any], kinds: tuple[str, ...]) -> None:
    answer = tenant.client.post(path, json=about, headers={"Idempotency-Key": tenant.marker})
    job_id = tenant.hide("job_id", answer.raise_for_status().json()["id"])
    claim = claims.claim_next(sessions, tenant.marker, timedelta(seconds=60))
    if claim is None or claim.job_id != job_id:
        raise RuntimeError("another job waits, or a worker runs")
    with sessions.begin() as session:
        job = find_job(session, job_id)
        if job is None:
            raise RuntimeError("the project does not see its own job")
        add_event(session, job, "evaluated", {"note": tenant.marker}, clock(session))
        add_lines(session, job_id, [LogLine(clock(session), "info", tenant.marker)])
    artifacts = {}
    for kind in kinds:
        contents = json.dumps({"layers": [], "note": f"{tenant.marker} {kind}"}).encode()
        tenant.hide("If-None-Match", hashlib.sha256(contents).hexdigest())
        artifacts[kind] = Artifact(write_bytes(sessions, contents), "application/json")
    claims.finish(sessions, claim, Outcome.MET, {"note": tenant.marker}, artifacts)


def _add_webhook(tenant: Tenant, sessions: Sessions) -> None:
    """A webhook and a message of it, as rows: addresses that are refused could not be given by a call."""
    webhook_id = tenant.hide("webhook_id", secrets.token_hex(16))
    delivery_id = tenant.hide("delivery_id", secrets.token_hex(16))
    with sessions.begin() as session:
        now = clock(session)
        session.add(
            WebhookRow(
                id=webhook_id,
                project_id=sessions.project_id,
                url=f"http://127.0.0.1:9/{tenant.marker}",
                secret=tenant.marker,
                created_at=now,
            )
        )
        session.flush()
        session.add(
            DeliveryRow(
                id=delivery_id,
                webhook_id=webhook_id,
                job_id=tenant.ids["job_id"][0],
                kind="job.succeeded",
                payload={"note": tenant.marker},
                state="delivered",
                attempts=1,
                next_at=now,
                give_up_at=now,
                created_at=now,
            )
        )
