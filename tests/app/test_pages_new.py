"""The pages that start jobs, without a browser: what is sent, what is kept, and where errors stand."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.pages import recognised
from app.pages.form_fields import READERS
from app.settings import Settings
from app.store.engine import open_sessions
from app.store.migrate import upgrade
from tests.app.conftest import make_key

PAGE = {"Accept": "text/html"}
MODEL = {
    "state": "ready",
    "inputs": [{"name": "<image>", "dtype": "float32", "shape": [None, 3, 8, 8]}],
    "outputs": [{"name": "y", "dtype": "float32", "shape": None}],
    "opset": 18,
    "producer": "",
    "weights": 1234,
    "weight_bytes": 4936,
    "nodes": 3,
    "operators": {"Conv": 2, "Relu": 1},
}
DATASET = {
    "state": "ready",
    "form": "npz",
    "arrays": [
        {
            "name": "x",
            "dtype": "float32",
            "shape": [1000, 3, 8, 8],
            "role": "input",
            **dict.fromkeys(("minimum", "maximum", "mean"), 0.5),
        },
        {
            "name": "labels",
            "dtype": "int64",
            "shape": [1000],
            "role": "labels",
            **dict.fromkeys(("minimum", "maximum", "mean")),
        },
    ],
    "samples": 1000,
    "labels": {"classes": 2, "counts": {"0": 400, "1": 600}},
    "thumbnails": ["data:image/png;base64,AAAA"],
    "notes": ["noted"],
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """The application in this process, without a worker."""
    home = tmp_path_factory.mktemp("pages")
    url = f"sqlite:///{home / 'bitbudget.db'}"
    upgrade(url)
    settings = Settings(home=home, database_url=url, max_model_bytes=100_000, max_dataset_bytes=100_000)
    with TestClient(create_app(settings, wake=lambda: None), base_url="http://127.0.0.1", headers=PAGE) as client:
        yield client


@pytest.fixture
def described(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What uploads are described as, by kind, in place of what a worker would read in them."""
    known: dict[str, Any] = {"model": MODEL, "dataset": DATASET}
    monkeypatch.setattr(recognised, "describe", lambda _sessions, _wake, kind, _id: known[kind])
    return known


def submit(client: TestClient, address: str = "/new", files: Any = None, **fields: Any) -> Any:
    data = {name.replace("__", "."): value for name, value in fields.items()}
    sent = {"key": "key-1"} | data
    return client.post(address, data=sent, files=files or {"model": ("", b"")}, follow_redirects=False)


def upload(client: TestClient, contents: bytes = b"model", kind: str = "models") -> str:
    return str(client.put(f"/v1/{kind}", content=contents, params={"name": "net.onnx"}).json()["id"])


def job_at(client: TestClient, answer: Any) -> dict[str, Any]:
    assert answer.status_code == 303, answer.text
    job: dict[str, Any] = client.get("/v1" + answer.headers["location"], headers={"Accept": "*/*"}).json()
    return job


def value_of(page: str, field: str) -> str:
    tag = re.search(rf'<input[^>]* name="{re.escape(field)}"[^>]*>', page)
    assert tag is not None, field
    value = re.search(r'value="([^"]*)"', tag[0])
    return html.unescape(value[1]) if value else ""


def test_a_form_with_files_makes_a_job(client: TestClient) -> None:
    files = {"model": ("net.onnx", b"network"), "dataset": ("data.npz", b"samples")}
    answer = submit(client, files=files, budget__max_drop="0.02", layers="conv1", name="mine", tags="a, b", key="files")

    job = job_at(client, answer)
    assert job["request"]["budget"]["max_drop"] == 0.02
    assert job["request"]["layers"] == {"conv1": {"keep": True}}
    assert (job["name"], job["tags"]) == ("mine", ["a", "b"])
    stored = client.get(f"/v1/models/{job['model_id']}").json()
    assert stored["name"] == "net.onnx"
    assert job["dataset_id"] is not None


def test_a_form_that_is_sent_twice_makes_one_job(client: TestClient) -> None:
    fields = {"model_id": upload(client), "key": "twice"}

    first, second = (job_at(client, submit(client, **fields)) for _ in range(2))

    assert first["id"] == second["id"]


def test_a_changed_form_after_a_job_says_so_and_can_be_sent_again(client: TestClient) -> None:
    fields = {"model_id": upload(client), "key": "changed"}
    first = job_at(client, submit(client, **fields))

    refused = submit(client, **fields, seed="5")

    assert refused.status_code == 422
    assert first["id"] in refused.text
    again = submit(client, **fields | {"key": value_of(refused.text, "key")}, seed="5")
    assert job_at(client, again)["id"] != first["id"]


def test_errors_stand_at_their_fields_and_what_was_entered_is_kept(client: TestClient) -> None:
    files = {"model": ("net.onnx", b"kept network")}
    answer = submit(client, files=files, budget__confidence="sure", name='<b>"', weights__bits=["2", "9"], key="kept")

    assert answer.status_code == 422
    page = answer.text
    assert 'id="wrong-budget.confidence-1"' in page
    assert 'id="wrong-weights.bits-1"' in page
    assert value_of(page, "budget.confidence") == "sure"
    assert value_of(page, "name") == '<b>"'
    assert '<b>"' not in page
    stored = upload(client, b"kept network")
    assert f'<option value="{stored}" selected>' in page


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("limits.max_size_bytes", "9" * 400),
        ("limits.max_bit_operations", "9" * 5000),
        ("limits.max_latency_ms", "1e999"),
        ("limits.max_load_ms", "soon"),
        ("budget.max_drop", "[" * 100_000),
        ("budget.max_drop", "NaN"),
        ("seed", "-" + "9" * 400),
        ("opset", "1e999"),
        ("request", "[" * 100_000),
    ],
)
def test_what_is_no_number_of_a_request_is_told_at_its_field(client: TestClient, field: str, text: str) -> None:
    answer = submit(client, model_id=upload(client), **{field: text})
    assert answer.status_code == 422
    assert f'id="wrong-{field}-1"' in answer.text


def test_a_form_without_a_network_asks_for_one(client: TestClient) -> None:
    answer = submit(client)

    assert answer.status_code == 422
    assert "choose an .onnx file, or one of the stored models" in answer.text


def test_a_file_that_is_too_large_is_told_at_its_field(client: TestClient) -> None:
    answer = submit(client, files={"model": ("net.onnx", b"x" * 100_001)})

    assert answer.status_code == 422
    assert 'id="wrong-model_id-1"' in answer.text
    assert "BITBUDGET_MAX_MODEL_BYTES" in answer.text


def test_json_is_merged_over_the_fields(client: TestClient) -> None:
    request = {"seed": 4, "outputs": {"y": {"weight": 0.5}}}
    answer = submit(client, model_id=upload(client), seed="3", request=json.dumps(request), key="json")

    job = job_at(client, answer)
    assert job["request"]["seed"] == 4
    assert job["request"]["outputs"]["y"]["weight"] == 0.5


@pytest.mark.parametrize("text", ["{", "[]", '{"colour": "red"}'])
def test_json_that_is_no_request_is_told_at_its_field(client: TestClient, text: str) -> None:
    answer = submit(client, model_id=upload(client), request=text)

    assert answer.status_code == 422
    assert 'id="wrong-request-1"' in answer.text


def test_a_job_can_be_asked_again_with_its_request(client: TestClient) -> None:
    fields = {"model_id": upload(client), "objective": "bit_operations", "layers": "conv1\nfc", "budget.metric": "kl"}
    first = job_at(client, submit(client, **fields, key="again-1"))

    page = client.get("/new", params={"from": first["id"]}).text
    assert "conv1\nfc</textarea>" in page
    assert re.search(r'value="bit_operations" checked', page)
    assert '<option value="kl" selected>' in page
    second = job_at(client, submit(client, **fields, **{"from": first["id"]}, seed="1", key="again-2"))
    assert second["parent_id"] == first["id"]
    other = upload(client, b"another network")
    third = submit(client, **fields | {"model_id": other}, **{"from": first["id"]}, key="again-3")
    assert job_at(client, third)["parent_id"] is None


OF_JOBS_ALONE = ("objective", "limits", "weights", "activations", "target", "opset", "search", "layers")


def test_every_field_that_is_read_can_be_filled_in(client: TestClient) -> None:
    """What has no place in the form would be lost from the request of a job that is asked again."""
    pages = {address: client.get(address).text for address in ("/new", "/certify")}

    for field in READERS:
        assert (f'name="{field}"' in pages["/new"]) == (field != "quantized_id"), field
        assert (f'name="{field}"' in pages["/certify"]) == (field.split(".")[0] not in OF_JOBS_ALONE), field


def test_a_job_that_is_not_there_has_no_form(client: TestClient) -> None:
    answer = client.get("/new", params={"from": "0" * 32})

    assert answer.status_code == 404
    assert "no job has the id" in answer.text


def test_stored_files_can_be_chosen(client: TestClient) -> None:
    model = upload(client, b"stored network")

    page = client.get("/new", params={"model_id": model}).text

    assert f'<option value="{model}" selected>net.onnx' in page


def test_a_file_can_be_certified(client: TestClient) -> None:
    files = {"model": ("f.onnx", b"float"), "quantized": ("q.onnx", b"quantized"), "dataset": ("d.npz", b"samples")}
    job = job_at(client, submit(client, "/certify", files, budget__max_drop="0.05", key="certify"))

    assert job["request"]["quantized_id"] == upload(client, b"quantized")
    assert job["request"]["budget"]["max_drop"] == 0.05
    page = client.get("/new", params={"from": job["id"]}).text  # goes on to /certify
    assert "Certify a quantized file" in page
    assert value_of(page, "budget.max_drop") == "0.05"


def test_a_certificate_needs_two_files(client: TestClient) -> None:
    answer = submit(client, "/certify", {"model": ("f.onnx", b"float")})

    assert answer.status_code == 422
    assert "choose the quantized .onnx file" in answer.text


def test_what_was_recognised_is_shown(client: TestClient, described: dict[str, Any]) -> None:
    answer = client.get("/new/recognised", params={"model_id": "a" * 64, "dataset_id": "b" * 64})

    assert answer.headers["hx-trigger"] == "recognised"
    text = re.sub(r"\s+", " ", answer.text)
    assert "<code>&lt;image&gt;</code> float32, any × 3 × 8 × 8" in text
    assert "float32, any shape" in text
    assert "2 Conv, 1 Relu" in text
    assert "1,000 samples, as npz" in text
    assert "input <code>&lt;image&gt;</code>" in text
    assert "2 classes: 400 × 0, 600 × 1." in text
    assert 'src="data:image/png;base64,AAAA"' in text
    assert "every 1s" not in text


def test_samples_that_do_not_fit_are_told(client: TestClient, described: dict[str, Any]) -> None:
    described["dataset"] = DATASET | {"samples": 3}

    answer = client.get("/new/recognised", params={"model_id": "a" * 64, "dataset_id": "b" * 64})

    assert "The samples do not fit the network." in answer.text
    assert "at least 48 are needed" in answer.text


def test_what_is_not_known_yet_is_asked_for_again(client: TestClient, described: dict[str, Any]) -> None:
    described["dataset"] = {"state": "pending"}

    answer = client.get("/new/recognised", params={"model_id": "a" * 64, "dataset_id": "b" * 64})

    assert 'hx-trigger="every 1s"' in answer.text
    assert "hx-trigger" not in answer.headers


def test_a_file_that_cannot_be_read_is_told(client: TestClient, described: dict[str, Any]) -> None:
    described["model"] = {"state": "failed", "problem": {"title": "Not ONNX", "detail": "it is <text>"}}

    answer = client.get("/new/recognised", params={"model_id": "a" * 64})

    assert "it is &lt;text&gt;" in answer.text


def test_the_budget_is_said_in_words(client: TestClient, described: dict[str, Any]) -> None:
    fields = {"budget.metric": "top1", "budget.max_drop": "0.02", "dataset_id": "b" * 64}

    assert "At most 2 of 100" in client.get("/new/meaning", params=fields).text
    assert "300 held-out samples" in client.get("/new/meaning", params=fields).text
    assert "1,000 held-out samples" in client.get("/new/meaning", params=fields | {"all_held_out": "true"}).text
    assert "you probably mean 2 percent" in client.get("/new/meaning", params=fields | {"budget.max_drop": "2"}).text
    assert "made from the shapes" in client.get("/new/meaning", params=fields | {"dataset_id": ""}).text


def test_who_may_only_look_gets_no_form(tmp_path_factory: pytest.TempPathFactory) -> None:
    home = tmp_path_factory.mktemp("keys")
    url = f"sqlite:///{home / 'bitbudget.db'}"
    upgrade(url)
    settings = Settings(home=home, database_url=url, auth="keys")
    sessions = open_sessions(url)
    key = make_key(sessions, "team", "viewer")
    sessions.dispose()
    with TestClient(create_app(settings, wake=lambda: None), base_url="http://127.0.0.1", headers=PAGE) as client:
        client.headers["Authorization"] = f"Bearer {key}"
        for address in ("/new", "/certify"):
            page = client.get(address).text
            assert "Your key may look at everything here and start nothing." in page
            assert '<form method="post" action="/new"' not in page
            refused = submit(client, address)
            assert refused.status_code == 403
