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

    path = folder / f"{len(list(folder.iterdir()))}"
    return uploads.copy(project, name, fetch, path).read_bytes()


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
