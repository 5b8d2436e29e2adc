"""A service of its own for a benchmark: `bitbudget serve` in a fresh home, watched from outside."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil


@dataclass
class Service:
    """The running service: its client, its processes, and the most memory that they ever held."""

    api: httpx.Client
    process: psutil.Process
    home: Path
    worker_peak_bytes: int = 0
    api_peak_bytes: int = 0
    _stopped: threading.Event = field(default_factory=threading.Event)

    def worker_processes(self) -> list[psutil.Process]:
        """Worker processes: the watched one and its children; the child last."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return self.process.children(recursive=True)
        return []

    def busy_process(self) -> psutil.Process:
        """The process that computes: of the worker's processes the one that holds most memory."""
        return max(self.worker_processes(), key=resident_bytes)

    def watch(self) -> None:
        while not self._stopped.wait(0.02):
            self.worker_peak_bytes = max([self.worker_peak_bytes, *map(peak_bytes, self.worker_processes())])
            self.api_peak_bytes = max(self.api_peak_bytes, resident_bytes(self.process))

    def log(self) -> str:
        """What API and worker have logged so far."""
        return (self.home / "log").read_text()

    def submit(self, model: Path, data: Path, request: dict[str, Any]) -> str:
        """POST the job with its files; gives its id."""
        with model.open("rb") as model_file, data.open("rb") as data_file:
            answer = self.api.post(
                "/v1/jobs",
                files={
                    "model": (model.name, model_file),
                    "dataset": (data.name, data_file),
                    "request": (None, json.dumps(request)),
                },
            )
        return str(_checked(answer).json()["id"])

    def replan(self, job_id: str, changes: dict[str, Any]) -> str:
        """POST another question about a job's model and data; gives the new job's id."""
        return str(_checked(self.api.post(f"/v1/jobs/{job_id}/replan", json=changes)).json()["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        return dict(_checked(self.api.get(f"/v1/jobs/{job_id}")).json())

    def finished(self, job_id: str) -> dict[str, Any]:
        """Wait for the job's end; anything but success ends the benchmark."""
        while (job := self.job(job_id))["state"] in ("queued", "running"):
            time.sleep(0.05)
        if job["state"] != "succeeded":
            sys.exit(f"job {job_id} {job['state']}: {job['error']}")
        return job

    def content(self, job_id: str, path: str) -> bytes:
        return _checked(self.api.get(f"/v1/jobs/{job_id}/{path}")).content


@contextmanager
def running_service(home: Path, **settings: str) -> Iterator[Service]:
    """`bitbudget serve` under `home` with these settings (names without prefix), on a free port."""
    home.mkdir(parents=True)
    port_file = home / "port"
    environment = {**os.environ, "BITBUDGET_HOME": str(home)}
    environment |= {f"BITBUDGET_{name.upper()}": value for name, value in settings.items()}
    command = [str(Path(sys.executable).with_name("bitbudget")), "serve", "--port", "0", "--port-file", str(port_file)]
    with (
        (home / "log").open("wb") as log,
        subprocess.Popen(command, env=environment, stderr=log, stdout=log) as process,
    ):
        try:
            while not port_file.exists():
                if process.poll() is not None:
                    sys.exit(f"bitbudget serve ended with status {process.returncode}: {(home / 'log').read_text()}")
                time.sleep(0.02)
            with httpx.Client(base_url=f"http://127.0.0.1:{port_file.read_text()}", timeout=120) as api:
                service = Service(api, psutil.Process(process.pid), home)
                watcher = threading.Thread(target=service.watch)
                watcher.start()
                try:
                    _wait_for_worker(api)
                    yield service
                finally:
                    service._stopped.set()
                    watcher.join()
        finally:
            process.terminate()


def _wait_for_worker(api: httpx.Client) -> None:
    while api.get("/readyz").is_error:
        time.sleep(0.05)


def resident_bytes(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.NoSuchProcess):
        return int(process.memory_info().rss)
    return 0


def peak_bytes(process: psutil.Process) -> int:
    """The kernel's own high-water mark of resident memory, so that no peak falls between two looks."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def _checked(answer: httpx.Response) -> httpx.Response:
    if answer.is_error:
        sys.exit(f"{answer.request.method} {answer.request.url}: {answer.status_code} {answer.text}")
    return answer
