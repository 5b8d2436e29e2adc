"""The lists of models and datasets, without a browser."""

from __future__ import annotations

import re
from typing import Any

import pytest

HTML = {"Accept": "text/html"}
HOSTILE = "<script>alert(1)</script>"
KINDS = pytest.mark.parametrize("kind", ["model", "dataset"])


def page(server: Any, address: str) -> str:
    answer = server.client.get(address, headers=HTML)
    assert answer.status_code == 200, answer.text
    text: str = answer.text
    return text


def upload(server: Any, kind: str, data: bytes = b"contents", filename: str = "file.bin", **fields: str) -> Any:
    return server.client.post(f"/{kind}s", files={"file": (filename, data)}, data=fields, headers=HTML)


@KINDS
def test_a_file_is_uploaded_and_shown(server, kind):
    assert f"No {kind} is stored" in page(server, f"/{kind}s")
    answer = upload(server, kind, b"x" * 1234, tags="b, a")
    assert answer.status_code == 303
    address = answer.headers["location"]
    text = page(server, address)
    for words in ("file.bin", "1.23 kB", "1,234 bytes", "never"):
        assert words in text, words
    listed = page(server, f"/{kind}s")
    assert f'href="{address}"' in listed
    assert f"1 {kind}, 1.23 kB" in listed
    assert f"/{kind}s?tag=a" in listed


def test_only_a_file_of_a_size_that_fits_is_taken(server, settings):
    assert "choose a file" in upload(server, "model", b"").text
    nothing = server.client.post("/models", data={"name": "n"}, files={"other": b"x"}, headers=HTML)
    assert nothing.status_code == 400
    large = upload(server, "dataset", b"x" * (settings.max_dataset_bytes + 100_000))
    assert large.status_code == 413
    assert "BITBUDGET_MAX_DATASET_BYTES" in large.text
    assert upload(server, "model", tags="t" * 65).status_code == 422


@KINDS
def test_names_from_elsewhere_are_text(server, kind):
    address = upload(server, kind, filename=HOSTILE, tags=HOSTILE).headers["location"]
    for text in (page(server, f"/{kind}s"), page(server, address)):
        assert HOSTILE not in text
        assert "&lt;script&gt;" in text


def test_jobs_that_read_it_are_counted_and_found(server):
    model = server.upload_model(b"one")
    quantized = server.upload_model(b"two")
    for _ in range(2):
        server.submit(model_id=model)
    request = {"model_id": model, "quantized_id": quantized}
    certificate = server.client.post("/v1/certificates", json=request)
    assert certificate.status_code == 202, certificate.text
    text = page(server, "/models")
    counts = dict(re.findall(r'href="/\?upload_id=([0-9a-f]{64})">(\d+)', text))
    assert counts == {model: "3", quantized: "1"}
    assert certificate.json()["id"] in page(server, f"/?upload_id={quantized}")
    assert "3 jobs read it" in page(server, f"/models/{model}")


def test_what_is_stored_stands_beside_the_quota(serve, settings):
    server = serve(settings.model_copy(update={"quota_bytes": 2_000_000}))
    upload(server, "model", b"x" * 500_000)
    assert "500 kB of 2 MB" in page(server, "/models")
    refused = upload(server, "model", b"y" * 1_900_000)
    assert refused.status_code == 429
    assert "are left" in refused.text


@KINDS
def test_it_is_named_pinned_and_deleted(server, kind):
    address = upload(server, kind).headers["location"]
    answer = server.client.post(f"{address}/labels", data={"name": "other", "tags": "t", "pinned": "true"})
    assert (answer.status_code, answer.headers["location"]) == (303, address)
    now = server.client.get(f"/v1{address}").json()
    assert (now["name"], now["tags"], now["pinned"]) == ("other", ["t"], True)
    assert address in page(server, f"/{kind}s?name=other")
    assert address not in page(server, f"/{kind}s?name=file.bin")
    gone = server.client.post(f"{address}/delete")
    assert (gone.status_code, gone.headers["location"]) == (303, f"/{kind}s")
    assert server.client.get(address, headers=HTML).status_code == 404


def test_what_a_job_needs_stays_and_the_page_says_why(server):
    model = server.upload_model()
    job = server.submit(model_id=model)["id"]
    answer = server.client.post(f"/models/{model}/delete", headers=HTML)
    assert answer.status_code == 409
    assert job in answer.text
    assert "cancel them" in answer.text


def test_viewers_look_only(serve, settings):
    server = serve(settings.model_copy(update={"auth": "keys"}))
    with server.as_key("one", "viewer") as viewer:
        assert viewer.post("/models", files={"file": ("f", b"x")}).status_code == 403
        assert "Upload a model" not in viewer.get("/models", headers=HTML).text
