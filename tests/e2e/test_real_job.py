"""The main job with nothing faked: real processes and stages, on SQLite with files and on PostgreSQL with Redis."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import onnxruntime
import pytest
from jsonschema import Draft202012Validator
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits

REQUEST = {"budget": {"metric": "top1", "max_drop": 0.02}, "weights": {"bits": [2, 3, 4, 8]}}


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A network with one hidden layer, fitted to digits in closed form, and the digits that the fit did not see."""
    folder = tmp_path_factory.mktemp("case")
    data = load_digits()
    generator = np.random.default_rng(0)
    order = generator.permutation(len(data.target))
    images, labels = (data.images[order].reshape(-1, 64) / 16).astype(np.float32), data.target[order]
    hidden = (generator.normal(size=(64, 1500)) / 3).astype(np.float32)
    features = np.maximum(images[:700] @ hidden, 0)
    targets = 12 * np.eye(10)[labels[:700]]
    output = np.linalg.solve(features.T @ features + 30 * np.eye(1500), features.T @ targets).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["image", "hidden.weight"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("MatMul", ["r", "output.weight"], ["logits"]),
        ],
        "random_features",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 64])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(hidden, "hidden.weight"), numpy_helper.from_array(output, "output.weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    (folder / "digits.onnx").write_bytes(model.SerializeToString())
    np.savez(folder / "digits.npz", image=images[700:], labels=labels[700:])
    return folder / "digits.onnx", folder / "digits.npz"


@pytest.fixture
def pipeline() -> tuple[str, ...]:
    """Options of whatever starts a worker; a test may give its own."""
    return ()


@pytest.fixture(params=["embedded", "team"])
def api(request: pytest.FixtureRequest, commands, pipeline, wait_until: Callable[..., None]) -> Iterator[httpx.Client]:
    """A running service: `serve` alone, or API, worker and dispatcher as processes of their own."""
    commands.environment["BITBUDGET_SANDBOX"] = "none" if pipeline else "auto"  # as a user has it
    port_file = commands.folder / "port"
    if request.param == "team":
        commands.environment["BITBUDGET_DATABASE_URL"] = request.getfixturevalue("postgresql_url")
        commands.environment["BITBUDGET_BROKER_URL"] = request.getfixturevalue("redis_url")
        assert commands.run("migrate").returncode == 0
        processes = [
            commands.start("serve", "--no-worker", "--port", "0", "--port-file", str(port_file)),
            commands.start("worker", *pipeline),
            commands.start("dispatcher"),
        ]
    else:
        processes = [commands.start("serve", "--port", "0", "--port-file", str(port_file), *pipeline)]
    wait_until(lambda: port_file.exists() or processes[0].poll() is not None)
    with httpx.Client(base_url=f"http://127.0.0.1:{port_file.read_text()}", timeout=120) as client:
        wait_until(lambda: client.get("/readyz").status_code == 200)
        yield client
    commands.close()  # before Redis is free for the next test, whose messages this worker would take


def post(api: httpx.Client, model: Path, data: Path, request: dict, **headers: str) -> httpx.Response:
    with model.open("rb") as model_file, data.open("rb") as data_file:
        files = {
            "model": (model.name, model_file),
            "dataset": (data.name, data_file),
            "request": (None, json.dumps(request)),
        }
        return api.post("/v1/jobs", files=files, headers=headers)


@pytest.fixture
def finished(api: httpx.Client, wait_until: Callable[..., None]) -> Callable[[str], dict]:
    """The job, once it has ended."""

    def finished(job_id: str) -> dict:
        wait_until(lambda: api.get(f"/v1/jobs/{job_id}").json()["state"] not in ("queued", "running"))
        return api.get(f"/v1/jobs/{job_id}").json()

    return finished


def test_post_poll_download_replan_and_a_bad_model(api, finished, case):
    model, data = case
    answer = post(api, model, data, REQUEST, **{"Idempotency-Key": "one"})
    assert answer.status_code == 202, answer.text
    again = post(api, model, data, REQUEST, **{"Idempotency-Key": "one"})
    assert again.json()["id"] == answer.json()["id"]

    job = finished(answer.json()["id"])
    assert (job["state"], job["outcome"], job["progress"]) == ("succeeded", "met", 1.0), job
    plan = api.get(f"/v1/jobs/{job['id']}/plan").json()
    assert [layer["name"] for layer in plan["layers"]] == ["hidden", "output"]
    assert plan["certificate"]["met"]
    rows = api.get(f"/v1/jobs/{job['id']}/plan?format=csv").text.splitlines()
    assert rows[0].startswith("name,")
    assert len(rows) == 3
    assert api.get(f"/v1/jobs/{job['id']}/frontier").json()["points"]
    assert api.get(f"/v1/jobs/{job['id']}/sensitivity").json()["sites"]

    download = api.get(f"/v1/jobs/{job['id']}/model.onnx")
    assert download.headers["ETag"] == f'"{hashlib.sha256(download.content).hexdigest()}"'
    assert len(download.content) == plan["size_bytes"] == job["summary"]["size_bytes"]
    with np.load(data) as archive:
        logits = onnxruntime.InferenceSession(download.content).run(None, {"image": archive["image"]})[0]
        assert (logits.argmax(1) == archive["labels"]).mean() > 0.85

    Draft202012Validator(api.get("/v1/schemas/plan-1.json").json()).validate(plan)
    for name in ("table", "ort", "aimet"):
        assert api.get(f"/v1/jobs/{job['id']}/plan?format={name}").status_code == 200
    applied = api.post(f"/v1/jobs/{job['id']}/replan", json={"plan": plan})
    assert applied.status_code == 202, applied.text
    third = finished(applied.json()["id"])
    assert (third["outcome"], third["progress"], third["stage"]) == ("met", 1.0, "certify")
    assert api.get(f"/v1/jobs/{third['id']}/model.onnx").content == download.content
    assert api.get(f"/v1/jobs/{third['id']}/frontier").json()["code"] == "artifact_missing"

    replanned = api.post(f"/v1/jobs/{job['id']}/replan", json={"budget": {"metric": "top1", "max_drop": 0.1}})
    assert replanned.status_code == 202, replanned.text
    second = finished(replanned.json()["id"])
    assert second["outcome"] == "met"
    assert second["parent_id"] == job["id"]
    assert second["summary"]["size_bytes"] <= job["summary"]["size_bytes"]

    broken = data.with_name("broken.onnx")
    broken.write_bytes(model.read_bytes()[:-1000])
    failed = finished(post(api, broken, data, REQUEST).json()["id"])
    assert (failed["state"], failed["error"]["code"]) == ("failed", "model_not_onnx")
    upload = api.put("/v1/models", content=broken.read_bytes())
    assert upload.status_code == 200  # the failed job kept its upload


@pytest.mark.parametrize("pipeline", [("--pipeline", "held_table")])
def test_sigkill_in_the_middle_gives_the_same_plan(api, finished, case, wait_until, commands, pipeline):
    model, data = case
    # undisturbed, in a home of its own: nothing that the killed job could find
    options = ["--metric", "top1", "--max-drop", "0.02", "--bits", "2,3,4,8"]
    elsewhere = commands.elsewhere("undisturbed")
    undisturbed = elsewhere.run("plan", str(model), "--data", str(data), *options, "--out", "out")
    assert undisturbed.returncode == 0, undisturbed.stderr

    job_id = post(api, model, data, REQUEST).json()["id"]
    wait_until(lambda: list((commands.folder / "held").glob("*")))
    (held,) = (commands.folder / "held").iterdir()
    assert api.get(f"/v1/jobs/{job_id}").json()["state"] == "running"
    os.kill(int(held.name), signal.SIGKILL)
    killed = finished(job_id)
    assert (killed["state"], killed["attempt"]) == ("succeeded", 2), killed
    for path, name in (("plan", "plan.json"), ("model.onnx", "model.onnx"), ("frontier", "frontier.json")):
        assert api.get(f"/v1/jobs/{job_id}/{path}").content == (elsewhere.folder / "out" / name).read_bytes(), name
