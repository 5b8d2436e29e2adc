"""Downloads: whole or not at all, with their digest, and not from the beginning after a cut."""

from __future__ import annotations

import hashlib
from pathlib import Path

import httpx
import pytest

from bitbudget_client import Damaged, Problem, Unreachable
from tests.client.conftest import Broken, Driver, job_document

DATA = bytes(range(256)) * 40
DIGEST = hashlib.sha256(DATA).hexdigest()


class Files:
    """A server that cuts each answer after `most` bytes."""

    def __init__(self, most: int = 1 << 30, data: bytes = DATA, digest: str = DIGEST) -> None:
        self.most = most
        self.data = data
        self.digest = digest
        self.asked: list[str | None] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("0" * 32):
            return httpx.Response(200, json=job_document(state="succeeded"))
        assert request.headers["accept-encoding"] == "identity"
        wanted, start = request.headers.get("range"), 0
        self.asked.append(wanted)
        if wanted is not None and request.headers["if-range"] == f'"{self.digest}"':
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        headers = {"ETag": f'"{self.digest}"', "Content-Length": str(len(self.data) - start)}
        rest = self.data[start:]
        status = 206 if start else 200
        if len(rest) > self.most:
            return httpx.Response(status, headers=headers, stream=Broken(rest[: self.most]))
        return httpx.Response(status, headers=headers, content=rest)


def _load(driver: Driver, files: Files, path: Path, **arguments) -> Path:
    return driver.run(files, lambda client: client.download_one("x", "model.onnx", path), **arguments)


def test_a_download_that_breaks_off_goes_on(driver: Driver, tmp_path: Path) -> None:
    files, shown = Files(most=4000), []

    def load(client):
        return client.download_one("x", "model.onnx", tmp_path / "new" / "model.onnx", lambda *told: shown.append(told))

    path = driver.run(files, load)
    assert path.read_bytes() == DATA
    assert files.asked == [None, "bytes=4000-", "bytes=8000-"]
    assert shown[-1] == ("model.onnx", len(DATA), len(DATA))
    assert list(path.parent.iterdir()) == [path]


def test_another_call_goes_on_with_what_is_there_and_not_with_other_contents(driver: Driver, tmp_path: Path) -> None:
    path = tmp_path / "model[1].onnx"
    path.write_bytes(b"before")
    with pytest.raises(Unreachable):
        _load(driver, Files(most=4000), path, patience_seconds=0)
    assert path.read_bytes() == b"before"
    files = Files()
    assert _load(driver, files, path).read_bytes() == DATA
    assert files.asked == ["bytes=4000-"]
    with pytest.raises(Unreachable):
        _load(driver, Files(most=4000), path, patience_seconds=0)
    other = DATA[::-1]
    assert _load(driver, Files(data=other, digest=hashlib.sha256(other).hexdigest()), path).read_bytes() == other
    assert list(tmp_path.iterdir()) == [path]


def test_bytes_without_their_digest_are_not_kept(driver: Driver, tmp_path: Path) -> None:
    with pytest.raises(Damaged, match=f"arrived with the digest {DIGEST}"):
        _load(driver, Files(digest="f" * 64), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_the_text_of_a_redirect_is_no_model(driver: Driver, tmp_path: Path) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(308, headers={"Location": "https://other.test/"}, text="<h1>moved</h1>")

    with pytest.raises(Problem, match=r"leads to .https://other\.test/"):
        driver.run(handler, lambda client: client.download_one("x", "model.onnx", tmp_path / "model.onnx"))
    assert list(tmp_path.iterdir()) == []


def test_a_range_behind_the_end_begins_anew(driver: Driver, tmp_path: Path) -> None:
    (tmp_path / f".model.onnx.{DIGEST}.part").write_bytes(DATA + b"more")
    files = Files()

    def handler(request: httpx.Request) -> httpx.Response:
        if "range" in request.headers:
            return httpx.Response(416, json={"code": "range_unsatisfiable"})
        return files(request)

    path = tmp_path / "model.onnx"
    assert driver.run(handler, lambda client: client.download_one("x", "model.onnx", path)).read_bytes() == DATA


@pytest.mark.parametrize(
    ("request_members", "names"),
    [
        ({}, {"model.onnx", "plan.json", "plan.csv", "frontier.json", "sensitivity.json"}),
        ({"plan": {}}, {"model.onnx", "plan.json", "plan.csv"}),
        ({"quantized_id": "x"}, {"certificate.json"}),
    ],
)
def test_all_results_of_a_job(driver: Driver, tmp_path: Path, request_members: dict, names: set[str]) -> None:
    files = Files()

    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/jobs/x":
            return httpx.Response(200, json=job_document(state="succeeded", request=request_members))
        return files(request)

    paths = driver.run(handler, lambda client: client.download("x", tmp_path))
    assert {path.name for path in paths} == {path.name for path in tmp_path.iterdir()} == names
