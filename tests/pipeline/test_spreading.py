"""One job on several processes: the same bytes as on one, each chunk computed once, whoever is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pipeline
from pipeline.spreading import Chunks, StageOver
from pipeline.store import FolderStore, MemoryStore, Store

REQUEST = {
    "budget": {"max_drop": 0.02},
    "weights": {"bits": [2, 4, 8]},
    "sensitivity": {"compare": ["hawq_v2", "fisher_weights", "fisher_outputs", "m_fac"]},
}
SHARED = {"cross_layer", "sensitivity", "agreement", "plan"}
ROOT = Path(__file__).parents[2]


class Forks:
    """`job_process`, which has imported the pipeline and begins processes that have."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.pipeline.job_process"]
        one = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        environment = {**os.environ, **one, "PYTHONPATH": f"{ROOT}:{ROOT / 'client'}"}
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def ask(self, *command: Any) -> Any:
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate()


class Forked:
    """One process on the job."""

    def __init__(self, forks: Forks, *arguments: Any) -> None:
        self._forks = forks
        self.pid: int = forks.ask("begin", *arguments)
        self._status: int | None = None

    def poll(self) -> int | None:
        if self._status is None:
            self._status = self._forks.ask("poll", self.pid)
        return self._status

    def wait(self) -> int:
        if self._status is None:
            self._status = self._forks.ask("wait", self.pid)
        return self._status

    def kill(self) -> None:
        if self._status is None:
            os.kill(self.pid, signal.SIGKILL)


class Processes:
    """Processes that work on the job of a folder; what is left of them ends with the test."""

    def __init__(self, folder: Path, forks: Forks) -> None:
        self.folder = folder
        self._forks = forks
        self._begun: list[Forked] = []

    def begin(self, role: str, dies: tuple[str, int] | None = None) -> Forked:
        process = Forked(self._forks, str(self.folder), role, dies)
        self._begun.append(process)
        return process

    def end(self) -> None:
        for process in self._begun:
            process.kill()
            process.wait()

    def artifacts(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (self.folder / "result").iterdir()}

    def stored(self) -> list[tuple[int, str, str]]:
        """Who stored what, by process and stage."""
        lines = [line.split() for line in (self.folder / "stored").read_text().splitlines()]
        return [(int(pid), stage, key) for pid, stage, key in lines]

    def require_nothing_computed_twice(self) -> None:
        counts = Counter(key for _, _, key in self.stored() if key != "killed")
        assert {key: count for key, count in counts.items() if count > 1} == {}


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    forks = Forks()
    yield forks
    forks.close()


@pytest.fixture
def processes(tmp_path: Path, model: bytes, samples: dict[str, np.ndarray], forks: Forks) -> Iterator[Processes]:
    (tmp_path / "model.onnx").write_bytes(model)
    np.savez(tmp_path / "data.npz", **samples)
    (tmp_path / "request.json").write_text(json.dumps(REQUEST))
    processes = Processes(tmp_path, forks)
    yield processes
    processes.end()


@pytest.fixture(scope="module")
def alone(model: bytes, samples: dict[str, np.ndarray]) -> dict[str, bytes]:
    """The artifacts of the job in one process."""
    return dict(pipeline.plan(model, samples, REQUEST, machine=pipeline.Machine(threads=1)).artifacts)


def test_two_processes_give_the_bytes_of_one_and_compute_nothing_twice(processes, alone):
    leader, helper = processes.begin("leader"), processes.begin("helper")
    assert (leader.wait(), helper.wait()) == (0, 0)
    assert processes.artifacts() == alone
    processes.require_nothing_computed_twice()
    by_stage = {stage: {pid for pid, own, _ in processes.stored() if own == stage} for stage in SHARED}
    assert all(pids == {leader.pid, helper.pid} for pids in by_stage.values())
    left = [path for path in (processes.folder / "cache").rglob("*") if path.is_file() and ".parts" in path.parent.name]
    assert all(path.parent.name == "cached.parts" for path in left)
    assert not [path for path in left if path.name.startswith(".")]


@pytest.mark.parametrize("stage", ["cross_layer", "plan"])
def test_a_killed_helper_is_made_up_for(processes, alone, stage):
    leader, helper = processes.begin("leader"), processes.begin("helper", (stage, 1))
    assert helper.wait() == -signal.SIGKILL
    other = processes.begin("helper")  # the leader waits for somebody in the stages that follow
    assert (leader.wait(), other.wait()) == (0, 0)
    assert processes.artifacts() == alone
    processes.require_nothing_computed_twice()


@pytest.mark.parametrize("stage", ["cross_layer", "plan"])
def test_a_killed_leader_is_followed_by_another(processes, alone, stage):
    leader, helper = processes.begin("leader", (stage, 1)), processes.begin("helper")
    assert leader.wait() == -signal.SIGKILL
    assert helper.poll() is None
    follower = processes.begin("leader")
    assert (follower.wait(), helper.wait()) == (0, 0)
    assert processes.artifacts() == alone
    processes.require_nothing_computed_twice()


class Watched(MemoryStore):
    """Chunks that others compute, by key; what was taken here and not given back."""

    def __init__(self, others: set[str]) -> None:
        super().__init__()
        self.others = others
        self.mine: set[str] = set()

    def take(self, key: str) -> bool:
        if key in self.others:
            return False
        self.mine.add(key)
        return True

    def store(self, key: str, data: bytes) -> bytes:
        self.give_back(key)
        return super().store(key, data)

    def give_back(self, key: str) -> None:
        self.mine.discard(key)


def results(
    store: Store, computed: list[int], check: Callable[[], None] = lambda: None, **more: int
) -> Iterator[bytes]:
    """Five chunks, and which of them are computed here, in order."""

    def compute(place: int) -> bytes:
        computed.append(place)
        return bytes([place])

    return Chunks(store, check).results(list("abcde"), compute, **more)


EVERY = [bytes([place]) for place in range(5)]


def test_one_process_computes_what_it_is_asked_for_in_order():
    computed: list[int] = []
    chunks = results(MemoryStore(), computed)
    for place in range(3):
        assert next(chunks) == EVERY[place]
        assert computed == list(range(place + 1))
    assert list(chunks) == EVERY[3:]


@pytest.mark.parametrize(("ahead", "computed_first"), [(None, [1, 2, 4]), (1, [1]), (0, [])])
def test_while_another_computes_the_next_one_those_behind_are_computed(ahead, computed_first):
    store, computed = Watched({"a", "d"}), list[int]()

    def check() -> None:
        if computed == computed_first and "a" in store.others:  # all that may be taken
            store.others.clear()
            store.results.update(a=EVERY[0], d=EVERY[3])

    assert list(results(store, computed, check, ahead=ahead)) == EVERY
    assert computed[: len(computed_first)] == computed_first
    assert sorted(computed) == [1, 2, 4]
    assert not store.mine


def test_what_a_dead_process_took_is_computed():
    store, computed = Watched({"a"}), list[int]()

    def check() -> None:
        if len(computed) == 4:
            store.others.clear()

    assert list(results(store, computed, check)) == EVERY
    assert computed == [1, 2, 3, 4, 0]


def test_what_was_stored_before_it_was_taken_is_not_computed():
    """Between the look and the take another process stores its result and lets go."""

    class Late(MemoryStore):
        def take(self, key: str) -> bool:
            self.results.setdefault(key, b"theirs")
            return True

        def store(self, key: str, data: bytes) -> bytes:
            raise AssertionError(f"{key} is stored already")

    computed: list[int] = []
    assert list(results(Late(), computed)) == [b"theirs"] * 5
    assert not computed


def test_who_fails_or_stops_lets_others_compute():
    store = Watched(set())

    def fail(place: int) -> bytes:
        assert store.mine == {"a"}
        raise ValueError(place)

    with pytest.raises(ValueError, match="0"):
        next(Chunks(store, lambda: None).results(["a"], fail))
    assert not store.mine

    def over() -> None:
        raise StageOver

    with pytest.raises(StageOver):
        next(Chunks(store, over).results(["a"], fail))
    assert not store.mine


def test_open_chunks_are_those_that_nobody_has_begun():
    counts: list[int] = []
    store = Watched({"b"})
    chunks = Chunks(store, lambda: None).results(list("abcd"), lambda _: b"", opened=counts.append)
    next(chunks)
    assert counts == [3]
    store.others.clear()
    assert len(list(chunks)) == 3
    assert counts == [3, 2, 1, 0]


def test_one_of_two_takes_a_chunk_of_a_folder(tmp_path):
    first, second = FolderStore(tmp_path), FolderStore(tmp_path)
    assert first.take("stage/a")
    assert first.take("stage/a")
    assert not second.take("stage/a")
    first.give_back("stage/a")
    assert second.take("stage/a")
    assert not first.take("stage/a")
    second.store("stage/a", b"")
    assert first.take("stage/a")
    assert second.take("stage/b")
    first.drop("stage/")
    second.drop("stage/")
    assert not list(tmp_path.rglob("*.lock"))
