from __future__ import annotations

from pathlib import Path

import pytest

from workers.uploads import Uploads


@pytest.fixture
def fetched() -> list[str]:
    return []


def get(uploads: Uploads, fetched: list[str], folder: Path, name: str, project: str = "p") -> bytes:
    def fetch(path: Path) -> None:
        fetched.append(f"{project}/{name}")
        path.write_bytes(f"{project}/{name}".encode() * 10)

    new = f"{len(list(folder.iterdir()))}"
    return uploads.copy(project, name, fetch, folder, new, lambda: None).read_bytes()


def test_an_upload_is_fetched_once_for_each_project(tmp_path, fetched):
    uploads = Uploads(tmp_path / "tmp")
    (tmp_path / "jobs").mkdir()
    for _ in range(2):
        assert get(uploads, fetched, tmp_path / "jobs", "a") == b"p/a" * 10
        assert get(uploads, fetched, tmp_path / "jobs", "a", "q") == b"q/a" * 10
    assert fetched == ["p/a", "q/a"]
    uploads.close()
    assert list((tmp_path / "tmp").iterdir()) == []


def test_what_a_job_does_to_its_copy_reaches_no_other_job(tmp_path, fetched):
    uploads = Uploads(tmp_path / "tmp")
    (tmp_path / "jobs").mkdir()
    get(uploads, fetched, tmp_path / "jobs", "a")
    (tmp_path / "jobs" / "0").write_bytes(b"spoiled")
    assert get(uploads, fetched, tmp_path / "jobs", "a") == b"p/a" * 10
    uploads.close()


def test_what_a_child_puts_in_the_way_is_neither_followed_nor_read(tmp_path, fetched):
    """It can write to the folder of its job, and may be quicker than the worker."""
    uploads = Uploads(tmp_path / "tmp")
    jobs, outside = tmp_path / "jobs", tmp_path / "outside"
    jobs.mkdir()
    outside.mkdir()
    secret = outside / "secret"
    secret.write_bytes(b"of the operator")
    (jobs / "0").symlink_to(secret)
    (jobs / "1").symlink_to(outside / "new")
    (jobs / "elsewhere").symlink_to(outside)

    def fetch(path: Path) -> None:
        path.write_bytes(b"upload")

    for folder, name in ((jobs, "0"), (jobs, "1"), (jobs / "elsewhere", "new")):
        with pytest.raises(OSError, match=r"exists|symbolic|directory"):
            uploads.copy("p", "a", fetch, folder, name, lambda: None)
    assert secret.read_bytes() == b"of the operator"
    assert [path.name for path in outside.iterdir()] == ["secret"]
    assert uploads.copy("p", "a", fetch, jobs, "2", lambda: None).read_bytes() == b"upload"
    uploads.close()


def test_a_copy_stops_when_the_job_has_to(tmp_path):
    uploads = Uploads(tmp_path / "tmp")
    (tmp_path / "jobs").mkdir()

    def stop() -> None:
        raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        uploads.copy("p", "a", lambda path: path.write_bytes(b"upload"), tmp_path / "jobs", "0", stop)
    uploads.close()


def test_the_least_recently_used_go(tmp_path, fetched):
    uploads = Uploads(tmp_path / "tmp", limit_bytes=70)
    (tmp_path / "jobs").mkdir()
    for name in ("a", "b", "a", "c", "a", "b"):  # 30 bytes each: two fit
        get(uploads, fetched, tmp_path / "jobs", name)
    assert fetched == ["p/a", "p/b", "p/c", "p/b"]
    small = Uploads(tmp_path / "small", limit_bytes=20)
    get(small, fetched, tmp_path / "jobs", "a")
    assert len(list((tmp_path / "small").rglob("p-*"))) == 0
    uploads.close()
    small.close()
