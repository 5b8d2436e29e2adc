"""The main job from start to end: train a small network, give it to the service with a budget, show what comes back.

python examples/demo.py [--out out/demo]
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import torch
from networks import DigitsResNet, save, train
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from app.schemas.headline import headline

CONSOLE = Console()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/demo"))
    out: Path = parser.parse_args().out.absolute()

    started = time.perf_counter()
    torch.manual_seed(0)
    torch.set_num_threads(1)  # more would only wait for each other
    # Narrow, so that no layer has weights to spare: with more of them every one ends at 2 bits.
    network = DigitsResNet(width=6)
    train(network, epochs=25, learning_rate=5e-3)
    model, data = save(network, out, "digits")
    CONSOLE.print(f"trained a residual network on handwritten digits in {time.perf_counter() - started:.0f} s: {model}")

    with service(out / "home") as api:
        request = {"budget": {"metric": "top1", "max_drop": 0.005}}
        with model.open("rb") as model_file, data.open("rb") as data_file:
            answer = api.post(
                "/v1/jobs",
                files={
                    "model": (model.name, model_file),
                    "dataset": (data.name, data_file),
                    "request": (None, json.dumps(request)),
                },
            )
        job = checked(answer).json()
        CONSOLE.print(f"POST /v1/jobs {json.dumps(request)}: job {job['id']}")
        job = follow(api, job["id"])
        if job["state"] != "succeeded":
            sys.exit(f"the job {job['state']}: {job['error']}")
        save_results(api, job["id"], out)
    show(out)


@contextmanager
def service(home: Path) -> Iterator[httpx.Client]:
    """`bitbudget serve` with everything embedded under `home`, on a free port, for as long as the block runs."""
    environment = {**os.environ, "BITBUDGET_HOME": str(home)}
    ready = home / "port"
    ready.unlink(missing_ok=True)
    command = [str(Path(sys.executable).with_name("bitbudget")), "serve", "--port", "0", "--port-file", str(ready)]
    home.mkdir(parents=True, exist_ok=True)
    with (
        (home / "log").open("wb") as log,
        subprocess.Popen(command, env=environment, stdout=log, stderr=log) as process,
    ):
        try:
            while not ready.exists():
                if process.poll() is not None:
                    sys.exit(f"bitbudget serve ended with status {process.returncode}; see {log.name}")
                time.sleep(0.05)
            with httpx.Client(base_url=f"http://127.0.0.1:{ready.read_text()}", timeout=60) as api:
                yield api
        finally:
            process.terminate()


def checked(answer: httpx.Response) -> httpx.Response:
    if answer.is_error:
        sys.exit(f"{answer.status_code} {answer.text}")
    return answer


def follow(api: httpx.Client, job_id: str) -> dict[str, Any]:
    """Poll the job until it ends."""
    columns = (
        TextColumn("{task.description:<14}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=CONSOLE) as bar:
        task = bar.add_task("queued", total=1.0)
        while True:
            job: dict[str, Any] = checked(api.get(f"/v1/jobs/{job_id}")).json()
            bar.update(task, description=job["stage"] or job["state"], completed=job["progress"])
            if job["state"] not in ("queued", "running"):
                return job
            time.sleep(0.2)


def save_results(api: httpx.Client, job_id: str, out: Path) -> None:
    for path, name in (
        ("plan", "plan.json"),
        ("plan?format=csv", "plan.csv"),
        ("frontier", "frontier.json"),
        ("sensitivity", "sensitivity.json"),
        ("model.onnx", "model.onnx"),
        ("report.html", "report.html"),
    ):
        (out / name).write_bytes(checked(api.get(f"/v1/jobs/{job_id}/{path}")).content)


def show(out: Path) -> None:
    plan = json.loads((out / "plan.json").read_text())
    CONSOLE.print(headline(plan), style="bold", highlight=False)
    table = Table(title="the plan")
    columns = {"name": "layer", "weights": "weights", "bits": "bits", "bytes": "bytes", "damage": "damage [nats]"}
    for title in columns.values():
        table.add_column(title, justify="left" if title == "layer" else "right")
    for row in csv.DictReader(io.StringIO((out / "plan.csv").read_text())):
        table.add_row(*(f"{float(row[key]):.2e}" if key == "damage" else row[key] for key in columns))
    CONSOLE.print(table)
    sensitivity = plan["sensitivity"]
    for method in sensitivity["agreement"]["methods"]:
        if method["method"] == sensitivity["method"]:
            CONSOLE.print(
                f"damage predicted by the {method['method']} score: rank correlation {method['spearman']:.3f} with "
                f"{sensitivity['agreement']['plans']} measured plans ({method['low']:.3f} to {method['high']:.3f})"
            )
    certificate = plan["certificate"]
    CONSOLE.print(
        f"{certificate['metric']} on {certificate['samples']} held-out samples: {certificate['float_value']:.4f} -> "
        f"{certificate['quantized_value']:.4f}, drop {certificate['drop']:+.4f} "
        f"({certificate['level']:.0%} interval {certificate['low']:+.4f} to {certificate['high']:+.4f}); "
        f"budget {certificate['max_drop']}: {plan['outcome']}"
    )
    CONSOLE.print(f"plan: {out / 'plan.json'}\nquantized network: {out / 'model.onnx'}\nreport: {out / 'report.html'}")


if __name__ == "__main__":
    main()
