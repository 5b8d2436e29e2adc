from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import pytest

from app.store import temporary
from app.store.temporary import sweep, work_folder

HOLDER = """
import signal, sys
from pathlib import Path
from app.store.temporary import work_folder
with work_folder(Path(sys.argv[1])) as folder:
    (folder / "deep").mkdir()
    (folder / "deep" / "file").write_bytes(b"x")
    print(folder, flush=True)
    signal.pause()
"""


def test_a_folder_lives_as_long_as_its_block(tmp_path: Path) -> None:
    with work_folder(tmp_path / "tmp") as folder:
        (folder / "file").write_bytes(b"x")
        assert sweep(tmp_path / "tmp") == 0
        assert (folder / "file").exists()
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_block_that_raises_removes_its_folder_too(tmp_path: Path) -> None:
    def fail() -> None:
        with work_folder(tmp_path):
            raise RuntimeError("in the block")

    with pytest.raises(RuntimeError, match="in the block"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_killed_process_is_swept_and_that_of_a_living_one_is_not(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        assert sweep(tmp_path) == 0
        assert (folder / "deep" / "file").exists()
        process.kill()
    assert folder.exists()
    assert sweep(tmp_path) == 1
    assert list(tmp_path.iterdir()) == []
    assert sweep(tmp_path) == 0


def test_a_folder_whose_lock_file_is_gone_goes_with_its_maker(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        folder.with_suffix(".lock").unlink()
        assert sweep(tmp_path) == 0
        assert (folder / "deep" / "file").exists()
        process.kill()
    assert sweep(tmp_path) == 1
    assert list(tmp_path.iterdir()) == []


def test_what_was_only_begun_goes_and_what_is_no_work_folder_stays(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").touch()
    (tmp_path / "work-link").symlink_to(elsewhere)
    (tmp_path / "work-file").touch()
    (tmp_path / "work-begun.lock").touch()
    (tmp_path / "work-half").mkdir()
    assert sweep(tmp_path) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"elsewhere", "work-link", "work-file"}
    assert (elsewhere / "file").exists()


def test_a_lock_file_that_a_sweep_takes_before_it_is_locked_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = temporary._lock
    locked: list[bool] = []

    def late(file: IO[str]) -> bool:
        if not locked:
            locked.append(True)
            next(tmp_path.glob("*.lock")).unlink()  # as a sweep does that has come and gone
        return lock(file)

    monkeypatch.setattr(temporary, "_lock", late)
    with work_folder(tmp_path) as folder:
        assert folder.with_suffix(".lock").exists()
        assert len(list(tmp_path.iterdir())) == 2
    assert list(tmp_path.iterdir()) == []


def test_many_may_sweep_at_once(tmp_path: Path) -> None:
    for number in range(50):
        (tmp_path / f"work-{number}" / "inner").mkdir(parents=True)
        if number % 2:
            (tmp_path / f"work-{number}.lock").touch()
    with ThreadPoolExecutor(4) as pool:
        removed = list(pool.map(lambda _: sweep(tmp_path), range(4)))
    assert sum(removed) >= 50
    assert list(tmp_path.iterdir()) == []


def test_sweeping_while_folders_come_and_go_takes_none_from_the_living(tmp_path: Path) -> None:
    done = threading.Event()
    errors: list[BaseException] = []

    def come_and_go() -> None:
        try:
            for _ in range(200):
                with work_folder(tmp_path) as folder:
                    (folder / "file").write_bytes(b"x")
                    assert (folder / "file").exists()
        except BaseException as error:
            errors.append(error)

    def keep_sweeping() -> None:
        while not done.is_set():
            sweep(tmp_path)

    makers = [threading.Thread(target=come_and_go) for _ in range(3)]
    sweeper = threading.Thread(target=keep_sweeping)
    for thread in (*makers, sweeper):
        thread.start()
    for thread in makers:
        thread.join()
    done.set()
    sweeper.join()
    assert errors == []
    assert list(tmp_path.iterdir()) == []


def test_there_is_nothing_to_sweep_where_nothing_is(tmp_path: Path) -> None:
    assert sweep(tmp_path / "nowhere") == 0


def test_a_folder_that_cannot_be_removed_keeps_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What a job may leave: folders so deep that removing them fails, or that nobody may look into."""
    for name in ("deep", "forbidden", "plain"):
        folder = tmp_path / f"work-{name}"
        folder.mkdir()
        (tmp_path / f"work-{name}.lock").touch()
    inner = os.open(tmp_path / "work-deep", os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=inner)
        inner, outer = os.open("d", os.O_RDONLY, dir_fd=inner), inner
        os.close(outer)
    os.close(inner)
    (tmp_path / "work-forbidden" / "inner").mkdir()
    (tmp_path / "work-forbidden" / "inner" / "file").touch()
    (tmp_path / "work-forbidden" / "inner").chmod(0)
    sweep(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left <= {"work-deep", "work-deep.lock"}
    assert bool(left) == ("work-deep" in caplog.text), "what stays is said"
    subprocess.run(["rm", "-rf", str(tmp_path / "work-deep")], check=True)
