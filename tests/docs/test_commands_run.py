"""What README, quickstart and guides tell to type is typed: the commands against a service whose stages are fakes, the
Python with a real network."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from documentation.blocks import ROOT, Block, blocks, pages

FAKES = ROOT / "tests/workers"
ADDRESS = "http://127.0.0.1:8000"  # that of the pages
SHELL = ("sh", "")


@pytest.fixture
def typing(tmp_path: Path, wait_until: Callable[..., None]) -> Iterator[Callable[[list[Block]], None]]:
    """Types blocks into one shell, one after the other, in a folder with a network and samples."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = tmp_path / "bin/bitbudget"
    program.parent.mkdir()
    real = shlex.quote(str(Path(sys.executable).with_name("bitbudget")))
    # The stages are those of a test; everything else is what a user runs.
    program.write_text(
        "#!/bin/sh\n"
        f'case $1 in plan | apply | serve) exec {real} "$@" --pipeline fake_pipeline ;; esac\n'
        f'exec {real} "$@"\n'
    )
    program.chmod(0o755)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    model = {"values": list(range(10)), "trace": str(tmp_path / "trace")}
    (tmp_path / "network.onnx").write_text(json.dumps(model))
    (tmp_path / "samples.npz").write_text("samples, as the fake stages take them")
    environment = {
        **os.environ,
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{FAKES}:{ROOT}:{ROOT / 'client'}",
        "BITBUDGET_HOME": str(tmp_path / "home"),
        "BITBUDGET_SANDBOX": "none",
        "BITBUDGET_PORT": str(port),
        "BITBUDGET_SERVER": f"http://127.0.0.1:{port}",
        "COLUMNS": "200",
    }
    servers: list[subprocess.Popen[bytes]] = []

    def answers() -> bool:
        assert servers[-1].poll() is None, "bitbudget serve has ended"
        try:
            return bool(urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=60).status == 200)
        except OSError:
            return False

    def type_in(typed: list[Block]) -> None:
        script = ["set -euo pipefail"]
        for block in typed:
            code = block.code.replace(ADDRESS, f"http://127.0.0.1:{port}")
            if code.startswith("bitbudget serve"):
                servers.append(subprocess.Popen(["sh", "-c", f"exec {code}"], env=environment, cwd=tmp_path))
                wait_until(answers)
            else:
                script.append(code)
        done = subprocess.run(
            ["bash", "-c", "\n".join(script)],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"

    yield type_in
    for server in servers:
        server.send_signal(signal.SIGTERM)
        server.wait()


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_every_command_of_the_page_works(page: Path, typing: Callable[[list[Block]], None]) -> None:
    typed = [block for block in blocks(page) if block.language in SHELL and block.reason is None]
    assert typed
    typing(typed)


def test_the_python_of_the_quickstart_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from torch import nn

    monkeypatch.chdir(tmp_path)
    export, samples, use = (block.code for block in blocks(ROOT / "docs/quickstart.md") if block.language == "python")
    network = nn.Sequential(nn.Conv2d(3, 4, 3, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own use of deprecated names
        exec(export, {"network": network, "torch": torch})
    images = np.random.default_rng(0).standard_normal((48, 3, 224, 224), np.float32)
    exec(samples, {"images": images, "classes": np.arange(48) % 10})
    # the uploaded file in place of the quantized one, which has the same inputs and outputs
    (tmp_path / "result").mkdir()
    shutil.copy("network.onnx", "result/model.onnx")
    members: dict[str, np.ndarray] = {}
    exec(use, members)
    assert members["logits"].shape == (8, 10)


def test_no_other_python_is_left_out() -> None:
    assert [b.page.name for page in pages() for b in blocks(page) if b.language == "python" and b.reason is None] == (
        ["quickstart.md"] * 3
    )
