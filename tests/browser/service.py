"""A service as a user runs it, for pages that a browser looks at, with a job that has ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.browser.networks import write_digits

ROOT = Path(__file__).parents[2]
REQUEST = {"budget": {"metric": "top1", "max_drop": 0.004}, "name": "digits", "tags": ["first"], "seed": 0}


@dataclass(frozen=True, slots=True)
class Site:
    """A running service: where it is, how to ask its API, and files to give it."""

    url: str
    api: httpx.Client
    model: Path
    """A network of four layers that knows digits."""
    data: Path
    """1,097 images of digits with their labels."""

    def submit(self, request: dict[str, Any] = REQUEST) -> str:
        """Make a job about `model` and `data`; its id."""
        with self.model.open("rb") as model, self.data.open("rb") as data:
            files = {
                "model": (self.model.name, model),
                "dataset": (self.data.name, data),
                "request": (None, json.dumps(request)),
            }
            answer = self.api.post("/v1/jobs", files=files)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        """The job as the API shows it."""
        answer = self.api.get(f"/v1/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        job: dict[str, Any] = answer.json()
        return job

    def finished(self, job_id: str) -> dict[str, Any]:
        """The job once it has ended."""
        while (job := self.job(job_id))["state"] in ("queued", "running"):
            time.sleep(0.2)
        return job


@contextmanager
def serve(home: Path, files: Path, *arguments: str, **settings: str) -> Iterator[Site]:
    """`bitbudget serve` with everything embedded under `home`, on a free port.

    Args:
        files: the folder of `write_digits`.
        arguments: more of them for the command.
        settings: by name without the prefix, in small letters.
    """
    home.mkdir(parents=True, exist_ok=True)
    port_file = home / "port"
    port_file.unlink(missing_ok=True)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("BITBUDGET_")}
    environment = inherited | {
        "BITBUDGET_HOME": str(home),
        "BITBUDGET_WORKER_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "client")]),
        **{f"BITBUDGET_{name.upper()}": value for name, value in settings.items()},
    }
    command = [str(Path(sys.executable).with_name("bitbudget")), "serve", "--port", "0", "--port-file", str(port_file)]
    with (
        (home / "log").open("ab") as log,
        subprocess.Popen([*command, *arguments], env=environment, stdout=log, stderr=log) as process,
    ):
        try:
            while not port_file.exists():
                if process.poll() is not None:
                    raise RuntimeError(f"bitbudget serve ended: {(home / 'log').read_text()[-2000:]}")
                time.sleep(0.05)
            url = f"http://127.0.0.1:{port_file.read_text()}"
            with httpx.Client(base_url=url, timeout=120) as api:
                yield Site(url, api, files / "digits.onnx", files / "digits.npz")
        finally:
            process.send_signal(signal.SIGTERM)


def make_finished_job(folder: Path) -> str:
    """Run one job to its end in `folder`/home, with the files in `folder`; its id. The service has ended then."""
    write_digits(folder)
    with serve(folder / "home", folder) as site:
        job = site.finished(site.submit())
        if job["state"] != "succeeded":
            raise RuntimeError(f"the job {job['state']}: {job['error']}")
        return str(job["id"])
