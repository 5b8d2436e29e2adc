"""The main job on a real network, measured from outside: size, accuracy, time, memory, kills, uploads.

    python -m benchmarks.job DATA [--format NAME ...]

DATA holds `resnet20.onnx`, `calibration_images.npz`, `evaluation_images.npz` and `prepare.py`, which makes the archive
that the service takes from an archive of images. The last line is one JSON object. Times are given in *float passes*:
the time that ONNX Runtime takes for the float network over the whole calibration archive, in the same run.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import onnx
import onnxruntime
from rich.console import Console
from rich.table import Table

from benchmarks.service.running import Service, resident_bytes, running_service
from examples.networks import DigitsTransformer, save, train
from pipeline.table import TABLE

REQUEST: dict[str, Any] = {"budget": {"metric": "top1", "max_drop": 0.01}}
# A job that asks for no latencies has no such stage.
STAGES = tuple(stage.name for stage in TABLE.stages if stage.name != "latency")
UPLOAD_BYTES = 500 * 1000**2
# Well inside the long stages, at once in those that take a twentieth of a second.
SECONDS_INTO = {
    "calibrate": 1.0,
    "cross_layer": 6.0,
    "sensitivity": 3.0,
    "agreement": 1.5,
    "plan": 1.5,
    "certify": 0.1,
}
BATCH = 128


@dataclass(frozen=True)
class Case:
    """A network, the archive that goes into the job, and one that nobody but this script sees."""

    model: Path
    calibration: Path
    evaluation: Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--format", action="append", help="a format of weights, in place of the defaults; repeat it")
    parser.add_argument("--skip-kills", action="store_true", help="leave out the runs with a killed worker")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-job-") as folder:
        work = Path(folder)
        case = prepare(arguments.data, work)
        request = REQUEST if arguments.format is None else {**REQUEST, "weights": {"formats": arguments.format}}
        figures, plan = resnet(case, work, request)
        figures["transformer_met"] = transformer(work)
        if not arguments.skip_kills:
            survived = [killed_in(stage, case, plan, work) for stage in STAGES]
            figures["same_plan_after_kill"] = f"{sum(survived)}/{len(STAGES)}"
        figures["upload_extra_bytes"] = upload(work)
    table = Table("figure", "measured")
    for name, value in figures.items():
        table.add_row(name, f"{value:,}" if isinstance(value, int) else str(value))
    Console().print(table)
    print(json.dumps(figures))


def prepare(data: Path, work: Path) -> Case:
    for name in ("calibration", "evaluation"):
        script = [sys.executable, str(data / "prepare.py")]
        subprocess.run([*script, str(data / f"{name}_images.npz"), str(work / f"{name}.npz")], check=True)
    return Case(data / "resnet20.onnx", work / "calibration.npz", work / "evaluation.npz")


def resnet(case: Case, work: Path, request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """The whole job with this request; its figures and its plan."""
    float_pass = float_pass_seconds(case)
    with running_service(work / "home") as service:
        started = time.perf_counter()
        job = service.submit(case.model, case.calibration, request)
        summary = service.finished(job)
        seconds = time.perf_counter() - started
        plan = service.content(job, "plan")
        quantized = work / "quantized.onnx"
        quantized.write_bytes(service.content(job, "model.onnx"))
        peak = service.worker_peak_bytes
    certificate = json.loads(plan)["certificate"]
    drop = accuracy(case.model, case.evaluation) - accuracy(quantized, case.evaluation)
    print(
        f"ResNet20: {summary['outcome']} in {seconds:.1f} s; float pass {float_pass:.2f} s; certificate: drop "
        f"{certificate['drop']:.4f}, {certificate['level']:.0%} interval {certificate['low']:.4f} to "
        f"{certificate['high']:.4f}"
    )
    return {
        "file_bytes": quantized.stat().st_size,
        "eval_drop_points": round(100 * drop, 3),
        "drop_in_interval": bool(certificate["low"] <= drop <= certificate["high"]),
        "float_passes": round(seconds / float_pass, 1),
        "worker_peak_bytes": peak,
    }, plan


def float_pass_seconds(case: Case) -> float:
    """Median of five passes of the float network over the whole calibration archive."""
    session = onnxruntime.InferenceSession(str(case.model), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    with np.load(case.calibration) as archive:
        samples = archive[name]
    times = []
    for _ in range(5):
        started = time.perf_counter()
        for start in range(0, len(samples), BATCH):
            session.run(None, {name: samples[start : start + BATCH]})
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def accuracy(model: Path, archive: Path) -> float:
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    with np.load(archive) as arrays:
        samples, labels = arrays[name], arrays["labels"]
    right = 0
    for start in range(0, len(samples), BATCH):
        logits = session.run(None, {name: samples[start : start + BATCH]})[0]
        right += int((logits.argmax(1) == labels[start : start + BATCH]).sum())
    return right / len(labels)


def transformer(work: Path) -> bool:
    """Train, export and quantize a transformer encoder; whether the budget was met with every MatMul weight planned."""
    network = DigitsTransformer()
    train(network, epochs=60, learning_rate=2e-3)
    model, data = save(network, work, "transformer")
    with running_service(work / "home-transformer") as service:
        job = service.submit(model, data, REQUEST)
        outcome = service.finished(job)["outcome"]
        plan = json.loads(service.content(job, "plan"))
    graph = onnx.load(str(model)).graph
    weights = {tensor.name for tensor in graph.initializer if len(tensor.dims) == 2}
    multiplied = [node.name for node in graph.node if node.op_type in ("MatMul", "Gemm") and weights & set(node.input)]
    planned = {name for layer in plan["layers"] if layer["bits"] <= 8 for name in layer["nodes"]}
    print(
        f"transformer: {outcome}, {plan['float_size_bytes']:,} -> {plan['size_bytes']:,} bytes, "
        f"{len(set(multiplied) & planned)} of {len(multiplied)} matrix products planned, certificate: drop "
        f"{plan['certificate']['drop']:.4f} on {plan['certificate']['samples']} samples"
    )
    return bool(outcome == "met" and set(multiplied) <= planned)


def killed_in(stage: str, case: Case, expected_plan: bytes, work: Path) -> bool:
    """SIGKILL the computing process in the middle of `stage`; whether the job then ends with the same plan.

    The worker's log says when a stage ended, hence when the next began; it also says afterwards whether the stage was
    really interrupted: then the second attempt did it, and did not find it done.
    """
    with running_service(work / f"home-kill-{stage}") as service:
        job = service.submit(case.model, case.calibration, REQUEST)
        position = STAGES.index(stage)
        begin = f"stage {STAGES[position - 1]} done" if position else "attempt 1"
        while begin not in service.log():
            time.sleep(0.003)
        time.sleep(SECONDS_INTO.get(stage, 0.0))
        service.busy_process().kill()
        killed = time.perf_counter()
        finished = service.finished(job)
        seconds = time.perf_counter() - killed
        same = service.content(job, "plan") == expected_plan
        first, _, second = service.log().partition("attempt 2")
        hit = f"stage {stage} done" not in first and f"stage {stage} done" in second
    print(
        f"kill in {stage}: {'hit' if hit else 'MISSED'}, {finished['outcome']} {seconds:.1f} s after the kill, "
        f"{'the same plan' if same else 'ANOTHER PLAN'}",
        flush=True,
    )
    return same and hit


def upload(work: Path) -> int:
    """Most memory that the API took on while 500 MB came in; a client that hangs up must leave nothing behind."""
    with running_service(work / "home-upload") as service:
        _put(service, 1000**2)  # what the first upload loads stays loaded
        files, blobs = _left_behind(service)
        _hang_up(service)
        deadline = time.monotonic() + 20
        while (left := _left_behind(service)) != (files, blobs) and time.monotonic() < deadline:
            time.sleep(0.1)
        if left != (files, blobs):
            sys.exit(f"a client that hung up left files {left[0] - files} and {left[1] - blobs} database bytes behind")
        print("hung-up upload: nothing left behind")
        before = service.api_peak_bytes = resident_bytes(service.process)
        started = time.perf_counter()
        _put(service, UPLOAD_BYTES)
        print(f"500 MB upload: {time.perf_counter() - started:.1f} s")
        return service.api_peak_bytes - before


def _pieces(size: int) -> Any:
    piece = np.random.default_rng(size).bytes(1 << 20)
    sent = 0
    while sent < size:
        part = piece[: size - sent]
        sent += len(part)
        yield part


def _put(service: Service, size: int) -> None:
    headers = {"Content-Length": str(size)}
    answer = service.api.put("/v1/models?name=random", content=_pieces(size), headers=headers)
    if answer.status_code not in (200, 201):
        sys.exit(f"the upload was answered {answer.status_code}: {answer.text}")


def _hang_up(service: Service) -> None:
    url = urlsplit(str(service.api.base_url))
    with socket.create_connection((url.hostname or "", url.port or 80)) as connection:
        head = f"PUT /v1/models?name=half HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Length: {UPLOAD_BYTES}\r\n\r\n"
        connection.sendall(head.encode())
        for piece in _pieces(UPLOAD_BYTES // 2):
            connection.sendall(piece)


def _left_behind(service: Service) -> tuple[int, int]:
    """Files in the service's folder for temporary files, and bytes of its database without the write-ahead log."""
    files = sum(1 for path in (service.home / "tmp").rglob("*") if path.is_file())
    return files, (service.home / "bitbudget.db").stat().st_size


if __name__ == "__main__":
    main()
