"""Hostile uploads through the process that parses and runs models, as a worker has it: each ends with a reason."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from app.errors import CATALOGUE
from benchmarks.service.hostile_archives import DATASETS, MODELS, sound_model
from benchmarks.service.hostile_child import DIED, DONE, Ending, Worker, endings, figures
from benchmarks.service.hostile_made import MADE
from benchmarks.service.hostile_models import HostileFile, hostile_file, hostile_files, kind_of
from benchmarks.service.hostile_mutations import KINDS

COUNT = 60
SLOW = {"nested_loops", "endless_loop", "slow_operator", "many_graphs", "many_sites", "many_nodes", "many_outputs"}
"""Made to take as long as they may: what ends them is tested without waiting for it."""


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    worker = Worker(tmp_path_factory.mktemp("home"), most_seconds=60)
    yield worker
    worker.close()


def test_hostile_uploads_end_with_a_reason(worker: Worker) -> None:
    places = (index for index in itertools.count() if kind_of(index, seed=7) not in SLOW)
    ended = list(endings((hostile_file(index, seed=7) for index in itertools.islice(places, COUNT)), worker))
    codes = Counter(ending.code for _, ending in ended)
    # native code may crash, which takes the process of the one file
    others = [(file.name, ending) for file, ending in ended if ending.code not in {DONE, DIED, *CATALOGUE}]
    assert not others
    assert [(file.name, ending) for file, ending in ended if ending.code == "internal"] == []
    assert codes[DIED] <= COUNT // 20
    assert len(codes) > 5
    assert figures(codes)["hostile_child_models"] == COUNT


def test_a_process_that_is_lost_is_replaced(worker: Worker) -> None:
    """The file after it is run as if nothing had been."""
    sound = HostileFile("sound", "none", sound_model())
    assert worker(sound).code == DONE
    child = worker._child
    assert child is not None
    child._process.kill()
    assert worker(sound) == Ending(DIED, "was ended by signal 9", pytest.approx(0, abs=60))
    assert worker(sound).code == DONE


def test_a_list_is_known_by_its_seed() -> None:
    first = list(hostile_files(30, seed=5))
    time.sleep(2)  # an archive may keep the time of its members to two seconds
    assert first[:20] == list(hostile_files(20, seed=5))
    assert first[7:9] == list(hostile_files(2, seed=5, first=7))
    assert first[0] != hostile_file(0, seed=6)
    assert len({file.name for file in first}) == 30
    assert [file.kind for file in first] == [kind_of(index, seed=5) for index in range(30)]


def test_a_long_list_has_every_kind() -> None:
    kinds = {kind_of(index) for index in range(1_500)}
    assert kinds == {*KINDS, *MADE, *MODELS, *DATASETS}
