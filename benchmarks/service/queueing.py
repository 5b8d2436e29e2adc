"""A job that is sent after a thousand that were cancelled while they waited: how long until it is done.

python -m benchmarks.service.queueing
"""

from __future__ import annotations

import json
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from benchmarks.service.team import running_team
from benchmarks.service.tiny import tiny_job

CANCELLED = 1000


def behind_cancelled(cancelled: int = CANCELLED) -> dict[str, Any]:
    """Send and cancel so many jobs while the one worker does not listen, then one more, and let it listen again."""
    first, last = tiny_job(0), tiny_job(1)
    with (
        tempfile.TemporaryDirectory(prefix="bitbudget-") as folder,
        running_team(Path(folder) / "team", workers=1) as team,
        httpx.Client(base_url=team.url, timeout=60) as api,
    ):
        ids = [str(api.put(f"/v1/{kind}s", content=content).raise_for_status().json()["id"])
               for kind, content in (("model", first.model), ("dataset", first.dataset))]  # fmt: skip
        request = {**json.loads(first.request), "model_id": ids[0], "dataset_id": ids[1]}
        worker = team.workers[0]
        worker.kill(signal.SIGSTOP)
        for number in range(cancelled):
            job = api.post("/v1/jobs", json={**request, "seed": number}).raise_for_status().json()
            api.post(f"/v1/jobs/{job['id']}/cancel").raise_for_status()
        worker.kill(signal.SIGCONT)
        began = time.monotonic()
        files = {"model": last.model, "dataset": last.dataset, "request": (None, last.request)}
        new = api.post("/v1/jobs", files=files).raise_for_status().json()
        while (state := api.get(f"/v1/jobs/{new['id']}").json()["state"]) in ("queued", "running"):
            time.sleep(0.02)
        seconds = time.monotonic() - began
        return {"new_job_behind_1000_cancelled_s": round(seconds, 2), "new_job_state": state, "cancelled": cancelled}


if __name__ == "__main__":
    print(json.dumps(behind_cancelled()))
