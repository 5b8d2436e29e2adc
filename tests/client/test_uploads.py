"""Uploads: nothing that is there is sent, and what a cut connection had brought over is not sent again."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pytest

from bitbudget_client import Damaged
from tests.client.conftest import Driver

DATA = bytes(range(256)) * 40
DIGEST = hashlib.sha256(DATA).hexdigest()


class Store:
    """The uploads of a server; in pieces it takes `most` bytes and then cuts the line."""

    def __init__(self, most: int = 1 << 30) -> None:
        self.most = most
        self.known: dict[str, dict] = {}
        self.sent: list[tuple[str, int]] = []
        self.arrived = b""
        self.metadata: dict[str, str] = {}

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        self.sent.append((f"{request.method} {path.rsplit('/', 1)[0] if '/uploads/' in path else path}", 0))
        if request.method == "GET" and path.rsplit("/", 1)[1] in self.known:
            return httpx.Response(200, json=self.known[path.rsplit("/", 1)[1]])
        if request.method == "PUT":
            return httpx.Response(201, json=self._add(request.content, request.url.params.get("name")))
        if request.method == "PATCH" and "/uploads/" not in path:
            document = self.known[path.rsplit("/", 1)[1]] | dict(httpx.Response(200, content=request.content).json())
            return httpx.Response(200, json=document)
        return self._tus(request)

    def _tus(self, request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            pairs = (pair.split(" ") for pair in request.headers["upload-metadata"].split(","))
            self.metadata = {key: base64.b64decode(value).decode() for key, value in pairs}
            return httpx.Response(201, headers={"Location": "/v1/uploads/one"})
        if request.method == "HEAD":
            return httpx.Response(200, headers={"Upload-Offset": str(len(self.arrived))})
        if request.method == "PATCH":
            assert int(request.headers["upload-offset"]) == len(self.arrived)
            self.sent[-1] = ("PATCH", len(request.content))
            self.arrived += request.content[: self.most]
            if len(request.content) > self.most:
                raise httpx.WriteError("the line was cut")
            self._add(self.arrived, self.metadata.get("name"))
            return httpx.Response(204)
        if request.url.path == "/v1/uploads/one":
            return httpx.Response(200, json={"upload_id": hashlib.sha256(self.arrived).hexdigest()})
        return httpx.Response(404, json={"code": "not_found"})

    def _add(self, data: bytes, name: str | None) -> dict:
        digest = hashlib.sha256(data).hexdigest()
        self.known[digest] = {"id": digest, "name": name or digest[:12], "tags": [], "size_bytes": len(data)}
        return self.known[digest]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "net.onnx"
    file.write_bytes(DATA)
    return file


def test_a_file_is_sent_once_and_has_its_name(driver: Driver, path: Path) -> None:
    store = Store()
    upload = driver.run(store, lambda client: client.upload_model(path))
    assert (upload.id, upload.name) == (DIGEST, "net.onnx")
    store.sent.clear()
    assert driver.run(store, lambda client: client.upload_model(path)).id == DIGEST
    assert store.sent == [(f"GET /v1/models/{DIGEST}", 0)]


def test_what_is_there_is_called_otherwise_only_when_asked_for(driver: Driver) -> None:
    store = Store()
    store._add(DATA, "before")
    assert driver.run(store, lambda client: client.upload_model(DATA)).name == "before"
    other = driver.run(store, lambda client: client.upload_model(DATA, name="after", tags=["a"]))
    assert (other.name, other.tags) == ("after", ("a",))


def test_a_cut_upload_goes_on_where_it_was(driver: Driver, path: Path) -> None:
    store, shown = Store(most=3000), []
    upload = driver.run(
        store,
        lambda client: client.upload_dataset(path, name="müller", sent=lambda *told: shown.append(told)),
        pieces_from_bytes=1,
    )
    assert upload.id == DIGEST
    assert store.metadata == {"kind": "dataset", "name": "müller"}
    assert [size for what, size in store.sent if what == "PATCH"] == [10240, 7240, 4240, 1240]
    assert shown[-1] == ("müller", len(DATA), len(DATA))


def test_a_file_that_changes_while_it_is_sent_is_not_taken_for_what_it_was(driver: Driver, path: Path) -> None:
    with pytest.raises(Damaged, match=r"net\.onnx changed while it was sent"):
        driver.run(
            Store(most=5000),
            lambda client: client.upload_model(path, sent=lambda *_: path.write_bytes(DATA[::-1]) and None),
            pieces_from_bytes=1,
        )


def test_arrays_are_sent_as_an_archive_of_numpy(driver: Driver) -> None:
    store, bodies = Store(), []

    def handler(request: httpx.Request) -> httpx.Response:
        bodies.append(request.content)
        return store(request)

    arrays = {"file": np.arange(6.0).reshape(2, 3), "prompt/ids": [[1], [2]], "labels": np.array([0, 1])}
    first = driver.run(handler, lambda client: client.upload_dataset(arrays))
    with np.load(BytesIO(bodies[1])) as archive:
        assert {name: archive[name].tolist() for name in archive} == {
            name: np.asarray(array).tolist() for name, array in arrays.items()
        }
    assert first.id == driver.run(store, lambda client: client.upload_dataset(arrays)).id
    with pytest.raises(TypeError, match="a model is a path or bytes"):
        driver.run(store, lambda client: client.upload_model(arrays))


def test_data_files_beside_the_model_are_packed_with_it(driver: Driver, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"x\x0a\x08location\x12\x08net.data")
    (tmp_path / "net.data").write_bytes(b"weights")
    store, bodies = Store(), []

    def handler(request: httpx.Request) -> httpx.Response:
        bodies.append(request.content)
        return store(request)

    assert driver.run(handler, lambda client: client.upload_model(tmp_path / "net.onnx")).name == "net.onnx"
    with zipfile.ZipFile(BytesIO(bodies[1])) as archive:
        assert archive.namelist() == ["model.onnx", "net.data"]
