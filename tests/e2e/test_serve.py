"""`bitbudget serve` with submit, status and download, on a pipeline of fake stages; then with parts of it killed."""

from __future__ import annotations

import json
import os
import signal

import pytest


def test_a_job_by_commands(shared_server, commands, fake_model, data, tmp_path):
    server = shared_server
    job_id = server.submit(fake_model.write(), "--data", str(data), "--max-drop", "0.5", "--bits", "2-4,8")
    assert server.job(job_id)["request"]["weights"]["bits"] == [2, 3, 4, 8]
    waited = commands.run("status", job_id, "--wait", "--server", server.url)
    assert waited.returncode == 0, waited.stderr
    assert "succeeded (met)" in waited.stdout
    done = commands.run("download", job_id, "--out", str(tmp_path / "out"), "--server", server.url)
    assert done.returncode == 0, done.stderr
    assert "layer 3" in done.stdout
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "model.onnx",
        "plan.json",
        "plan.csv",
        "frontier.json",
        "sensitivity.json",
    }
    assert (tmp_path / "out" / "model.onnx").read_bytes() == b"\x00\x01142.5"
    assert job_id in commands.run("status", "--server", server.url).stdout
    as_json = json.loads(commands.run("status", job_id, "--json", "--server", server.url).stdout)
    assert as_json["summary"] == {"total": 142.5, "data": "data"}
    labelled = server.submit(fake_model.write(), "--name", "nightly", "--tag", "a", "--tag", "b")
    listed = commands.run("status", "--tag", "b", "--server", server.url).stdout
    assert labelled in listed
    assert "nightly" in listed
    assert job_id not in listed
    removed = commands.run("rm", job_id, "--server", server.url)
    assert (removed.returncode, removed.stdout) == (0, "")
    again = commands.run("rm", job_id, "--server", server.url)
    assert again.returncode == 1
    assert "Not found" in again.stderr


def test_errors_of_the_server_are_said_as_title_and_detail(shared_server, commands, fake_model):
    server = shared_server
    too_much = commands.run("submit", str(fake_model.write()), "--max-drop", "3", "--server", server.url)
    assert too_much.returncode == 1
    assert "The accuracy budget is not valid" in too_much.stderr
    assert "0.03" in too_much.stderr
    unknown = commands.run("status", "0" * 32, "--server", server.url)
    assert unknown.returncode == 1
    assert "Not found" in unknown.stderr
    waiting = server.submit(fake_model.write(hold=["admit"]))
    early = commands.run("download", waiting, "--out", "out", "--server", server.url)
    assert early.returncode == 1
    assert "has not finished yet" in early.stderr
    assert not any((commands.folder / "out").iterdir())
    server.http.post(f"/v1/jobs/{waiting}/cancel")
    waited = commands.run("status", waiting, "--wait", "--server", server.url)
    assert (waited.returncode, "cancelled" in waited.stdout) == (4, True)


def test_a_server_that_is_not_there(commands, fake_model):
    done = commands.run("submit", str(fake_model.write()), "--server", "http://127.0.0.1:9")
    assert done.returncode == 1
    assert "The server does not answer" in done.stderr
    assert "bitbudget serve" in done.stderr


def test_a_failed_job_ends_the_wait_with_its_error(shared_server, commands, fake_model):
    server = shared_server
    job_id = server.submit(fake_model.write(trouble={"total": "refused"}))
    waited = commands.run("status", job_id, "--wait", "--server", server.url)
    assert waited.returncode == 1
    assert "send numbers" in waited.stdout


@pytest.mark.parametrize("victim", ["child", "worker"])
def test_a_killed_process_is_replaced_and_the_job_finishes(
    serve, commands, fake_model, alive, wait_until, let_go, victim
):
    server = serve()
    job_id = server.submit(fake_model.write(hold=["squares[1]"]), "--max-drop", "0.5")
    wait_until(lambda: fake_model.pid_of("squares[1]"))
    child = fake_model.pid_of("squares[1]")
    os.kill(child if victim == "child" else _parent(child), signal.SIGKILL)
    wait_until(lambda: not alive(child))
    let_go("squares[1]")
    waited = commands.run("status", job_id, "--wait", "--server", server.url)
    assert waited.returncode == 0, waited.stderr
    assert server.job(job_id)["summary"]["total"] == 142.5
    assert server.job(job_id)["attempt"] == 2


def test_a_killed_server_leaves_no_process_and_the_next_one_finishes_the_job(
    serve, commands, fake_model, descendants, alive, wait_until, let_go
):
    server = serve()
    job_id = server.submit(fake_model.write(hold=["squares[1]"]), "--max-drop", "0.5")
    wait_until(lambda: fake_model.pid_of("squares[1]"))
    left = descendants(server.process.pid)
    assert fake_model.pid_of("squares[1]") in left
    server.process.kill()
    server.process.wait()
    wait_until(lambda: not any(alive(pid) for pid in left))
    let_go("squares[1]")
    following = serve()
    waited = commands.run("status", job_id, "--wait", "--server", following.url)
    assert waited.returncode == 0, waited.stderr
    assert following.job(job_id)["summary"]["total"] == 142.5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_server_gives_the_job_back_and_leaves_no_process(
    serve, fake_model, descendants, alive, wait_until, let_go, number
):
    server = serve()
    job_id = server.submit(fake_model.write(hold=["squares[1]"]), "--max-drop", "0.5")
    wait_until(lambda: fake_model.pid_of("squares[1]"))
    left = descendants(server.process.pid)
    server.process.send_signal(number)
    assert server.process.wait() == 0
    assert not any(alive(pid) for pid in left)
    let_go("squares[1]")
    following = serve()
    wait_until(lambda: following.job(job_id)["state"] == "succeeded")
    assert following.job(job_id)["summary"]["total"] == 142.5


def test_one_home_has_one_worker(shared_server):
    second = shared_server.commands.run("serve", "--port", "0")
    assert second.returncode == 1
    assert "already runs the worker" in second.stderr
    worker = shared_server.commands.run("worker")
    assert worker.returncode == 1
    assert "BITBUDGET_BROKER_URL" in worker.stderr


def test_a_port_in_use_is_said(shared_server, commands):
    second = commands.run("serve", "--port", shared_server.url.rsplit(":", 1)[1])
    assert second.returncode == 1
    assert "--port" in second.stderr


def test_health_is_the_exit_status(shared_server, commands, wait_until):
    server = shared_server
    wait_until(lambda: server.http.get("/readyz").status_code == 200)
    for arguments in (("health",), ("health", "--worker")):
        done = server.commands.run(*arguments)
        assert (done.returncode, done.stdout) == (0, "healthy\n"), done.stderr
    nothing = commands.run("health")
    assert (nothing.returncode, "the database does not answer" in nothing.stderr) == (1, True)
    assert "Traceback" not in nothing.stderr
    commands.run("migrate")
    assert commands.run("health").returncode == 0
    no_worker = commands.run("health", "--worker")
    assert (no_worker.returncode, "was seen within 60 s" in no_worker.stderr) == (1, True)


def test_commands_take_the_server_from_the_environment(shared_server, commands, fake_model):
    commands.environment |= {"BITBUDGET_SERVER": shared_server.url, "COLUMNS": "80"}
    submitted = commands.run("submit", str(fake_model.write()))
    assert submitted.returncode == 0, submitted.stderr
    assert submitted.stdout.strip() in commands.run("status").stdout
    assert commands.run("migrate").returncode == 0  # a command of the service does not take it for a setting


def test_misspelt_settings_are_said(commands):
    commands.environment["BITBUDGET_LEESE_SECONDS"] = "3"
    done = commands.run("migrate")
    assert done.returncode == 1
    assert "BITBUDGET_LEASE_SECONDS" in done.stderr


def _parent(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rsplit(")", 1)[1].split()[1])
