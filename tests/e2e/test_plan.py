"""`bitbudget plan` from file to file, on a pipeline of fake stages."""

from __future__ import annotations

import json

import pytest

FAKE = ("--pipeline", "held_pipeline")


def test_plan_writes_every_result(commands, fake_model, data, tmp_path):
    out = tmp_path / "out"
    done = commands.run(
        "plan", str(fake_model.write()), "--data", str(data), "--max-drop", "0.5", "--out", str(out), *FAKE
    )
    assert done.returncode == 0, done.stderr
    assert (out / "model.onnx").read_bytes() == b"\x00\x01142.5"
    assert json.loads((out / "plan.json").read_bytes())["layers"][0] == {"name": "layer 0", "bits": 3}
    assert (out / "plan.csv").read_text().splitlines()[0] == "name,bits"
    assert (out / "frontier.json").exists()
    assert (out / "sensitivity.json").exists()
    assert "layer 3" in done.stdout


def test_another_budget_on_the_same_home_reuses_the_analysis(commands, fake_model, tmp_path):
    model = str(fake_model.write())
    for drop in ("0.5", "0.25"):
        done = commands.run("plan", model, "--max-drop", drop, "--out", str(tmp_path / drop), "--json", *FAKE)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["summary"]["total"] == 285 * float(drop)
    steps = [line.split()[0] for line in fake_model.trace_path.read_text().splitlines()]
    assert steps.count("admit") == 1
    assert steps.count("total") == 2


def test_a_plan_is_applied_and_what_a_search_alone_has_is_not_asked_for(commands, fake_model, tmp_path):
    model, plan = str(fake_model.write()), tmp_path / "mine.json"
    plan.write_text(json.dumps({"version": 1, "layers": [{"name": "layer 0", "format": "int3/channel", "damage": 1}]}))
    done = commands.run("apply", model, str(plan), "--max-drop", "0.5", "--out", "out", "--json", *FAKE)
    assert done.returncode == 0, done.stderr
    job = json.loads(done.stdout)
    assert job["request"]["budget"]["max_drop"] == 0.5
    assert [row["format"] for row in job["request"]["plan"]["layers"]] == ["int3/channel"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model.onnx", "plan.json", "plan.csv"}
    plan.write_text(json.dumps({"version": 3, "layers": []}))
    refused = commands.run("apply", model, str(plan), "--out", "out", *FAKE)
    assert (refused.returncode, "takes plans of version 1" in refused.stderr) == (1, True)


@pytest.mark.parametrize("outcome", ["not_met", "deadline"])
def test_a_budget_that_is_not_met_writes_the_best_effort_and_ends_with_3(commands, fake_model, tmp_path, outcome):
    done = commands.run("plan", str(fake_model.write(outcome=outcome)), "--out", str(tmp_path / "out"), *FAKE)
    assert done.returncode == 3
    assert outcome in done.stderr
    assert (tmp_path / "out" / "model.onnx").exists()


def test_a_job_that_fails_says_why_and_writes_nothing(commands, fake_model, tmp_path):
    model = fake_model.write(trouble={"total": "refused"})
    done = commands.run("plan", str(model), "--out", str(tmp_path / "out"), *FAKE)
    assert done.returncode == 1
    assert "The model is not valid ONNX" in done.stderr
    assert "send numbers" in done.stderr
    assert not (tmp_path / "out").exists()


def test_plan_beside_a_server_uses_its_worker(serve, commands, fake_model, tmp_path):
    serve()
    done = commands.run("plan", str(fake_model.write()), "--max-drop", "0.5", "--out", str(tmp_path / "out"), *FAKE)
    assert done.returncode == 0, done.stderr
    assert "takes the job" in done.stderr
    assert (tmp_path / "out" / "model.onnx").read_bytes() == b"\x00\x01142.5"


def test_plan_takes_over_when_the_server_is_killed(serve, commands, fake_model, tmp_path, alive, wait_until, let_go):
    server = serve()
    out = tmp_path / "out"
    model = fake_model.write(hold=["squares[1]"])
    planning = commands.start("plan", str(model), "--max-drop", "0.5", "--out", str(out), *FAKE)
    wait_until(lambda: fake_model.pid_of("squares[1]"))
    child = fake_model.pid_of("squares[1]")
    server.process.kill()
    server.process.wait()
    wait_until(lambda: not alive(child))
    let_go("squares[1]")
    assert planning.wait() == 0
    assert (out / "model.onnx").read_bytes() == b"\x00\x01142.5"


def test_wrong_options_are_said(commands, fake_model, tmp_path):
    model = str(fake_model.write())
    bits = commands.run("plan", model, "--bits", "many", "--out", str(tmp_path / "out"), *FAKE)
    assert (bits.returncode, "2,4,8" in bits.stderr) == (2, True)
    drop = commands.run("plan", model, "--max-drop", "2", "--out", str(tmp_path / "out"), *FAKE)
    assert (drop.returncode, "0.02" in drop.stderr) == (1, True)
    missing = commands.run("plan", str(tmp_path / "none.onnx"), "--out", str(tmp_path / "out"), *FAKE)
    assert (missing.returncode, "does not exist" in missing.stderr) == (2, True)
