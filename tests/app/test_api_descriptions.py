"""Descriptions of uploads: asked for over HTTP, made by a describer as every worker has one."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from app.lifecycle.recovery import reap_worker, workers_to_wake
from app.services import descriptions as service
from app.services.sample_match import match
from app.store import descriptions
from app.store.engine import Sessions, clock
from app.store.tables import DescriptionRow
from tests.app.conftest import RunningServer
from workers.describer import Describer

ONE_SETUP = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def network() -> bytes:
    weight = numpy_helper.from_array(np.ones((3 * 16 * 16, 4), np.float32), "W")
    nodes = [helper.make_node("Flatten", ["image"], ["f"]), helper.make_node("MatMul", ["f", "W"], ["scores"])]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 16, 16])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 4])
    graph = helper.make_graph(nodes, "g", [image], [scores], [weight])
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString())


@pytest.fixture
def describer(server: RunningServer) -> Iterator[Describer]:
    settings = server.settings.model_copy(update={"worker_threads": 1})
    started = Describer(settings, server.sessions, "here:1/descriptions")
    started.start()
    yield started
    started.close()


def put(server: RunningServer, kind: str, contents: bytes) -> str:
    return str(server.client.put(f"/v1/{kind}s", content=contents).json()["id"])


def described(server: RunningServer, kind: str, upload_id: str, wait_until: Callable[..., None]) -> dict[str, Any]:
    answers: list[dict[str, Any]] = []

    def ready() -> bool:
        answer = server.client.get(f"/v1/{kind}s/{upload_id}/description")
        answers.append(answer.json())
        return bool(answer.status_code == 200)

    wait_until(ready)
    return answers[-1]


@ONE_SETUP
def test_a_model_and_its_samples_are_described(
    server: RunningServer, describer: Describer, wait_until: Callable[..., None]
) -> None:
    random = np.random.default_rng(0)
    images = random.random((60, 3, 16, 16), dtype=np.float32)
    model = described(server, "model", put(server, "model", network()), wait_until)
    assert model["inputs"] == [{"name": "image", "dtype": "float32", "shape": [None, 3, 16, 16]}]
    assert (model["weights"], model["weight_bytes"], model["nodes"]) == (3072, 12288, 2)
    assert model["operators"] == {"Flatten": 1, "MatMul": 1}
    samples = npz(image=images, labels=np.arange(60) % 4)
    data = described(server, "dataset", put(server, "dataset", samples), wait_until)
    assert data["form"] == "npz"
    assert data["samples"] == 60
    assert data["labels"] == {"classes": 4, "counts": {"0": 15, "1": 15, "2": 15, "3": 15}}
    first = data["arrays"][0]
    assert first["shape"] == [60, 3, 16, 16]
    assert first["mean"] == pytest.approx(images.mean(dtype=np.float64))
    assert len(data["thumbnails"]) == 8
    assert data["thumbnails"][0].startswith("data:image/png;base64,")
    assert match(model, data) == []
    wrong = described(server, "dataset", put(server, "dataset", b"no samples"), wait_until)
    assert wrong["state"] == "failed"
    assert wrong["problem"]["code"] == "dataset_invalid"
    assert str(server.settings.home) not in str(wrong)


def test_who_asks_first_wakes_a_worker_and_nobody_makes_a_second(server: RunningServer) -> None:
    upload = put(server, "dataset", b"anything")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: server.client.get(f"/v1/datasets/{upload}/description"), range(8)))
    assert {answer.status_code for answer in answers} == {202}
    assert {answer.json()["state"] for answer in answers} == {"pending"}
    assert all(answer.headers["retry-after"] == "1" for answer in answers)
    assert len(server.wakes) == 1
    with server.sessions.read() as session:
        assert descriptions.waiting(session, clock(session)) == 1


def test_nobody_is_told_of_what_another_project_uploaded(serve: Callable[..., RunningServer], settings: Any) -> None:
    server = serve(settings.model_copy(update={"auth": "keys"}))
    with server.as_key("ours") as ours, server.as_key("theirs") as theirs:
        upload = ours.put("/v1/datasets", content=b"anything").json()["id"]
        assert ours.get(f"/v1/datasets/{upload}/description").status_code == 202
        assert theirs.get(f"/v1/datasets/{upload}/description").status_code == 404
        assert ours.get(f"/v1/models/{upload}/description").status_code == 404
    assert server.client.get(f"/v1/datasets/{upload}/description").status_code == 401


def test_a_description_goes_with_its_upload_and_is_no_job(server: RunningServer) -> None:
    upload = put(server, "dataset", b"anything")
    server.client.get(f"/v1/datasets/{upload}/description")
    assert server.client.get("/v1/jobs").json()["jobs"] == []
    assert server.client.delete(f"/v1/datasets/{upload}").status_code == 204
    with server.sessions.read() as session:
        assert session.query(DescriptionRow).count() == 0
    assert server.client.get(f"/v1/datasets/{upload}/description").status_code == 404


def test_one_worker_takes_it_and_a_dead_one_gives_it_back(server: RunningServer, sessions: Sessions) -> None:
    server.client.get(f"/v1/datasets/{put(server, 'dataset', b'anything')}/description")
    minute = timedelta(minutes=1)
    with sessions.begin() as session:
        now = clock(session)
        first = descriptions.take(session, "host:1/descriptions", now, now + minute)
        assert first is not None
        assert descriptions.take(session, "host:2/descriptions", now, now + minute) is None
    reap_worker(sessions, "host:1/", max_attempts=3)
    with sessions.begin() as session:
        second = descriptions.take(session, "host:2/descriptions", now, now + minute)
        assert second is not None
        assert second.attempts == 2
        # whoever lost it writes nothing
        assert not descriptions.end(session, first, "host:1/descriptions", {"state": "ready", "document": {"a": 1}})
        assert descriptions.take(session, "host:3/descriptions", now + 2 * minute, now + 3 * minute) is not None


def test_it_is_made_anew_for_a_later_version(
    server: RunningServer, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"/v1/datasets/{put(server, 'dataset', b'anything')}/description"
    server.client.get(address)
    with sessions.begin() as session:
        now = clock(session)
        taken = descriptions.take(session, "host:1/", now, now + timedelta(minutes=1))
        assert taken is not None
        failed = {"state": "failed", "problem_code": "dataset_invalid", "problem_detail": "no samples"}
        assert descriptions.end(session, taken, "host:1/", failed)
    assert server.client.get(address).json()["state"] == "failed"
    monkeypatch.setattr(service, "DESCRIPTION_VERSION", service.DESCRIPTION_VERSION + 1)
    assert server.client.get(address).status_code == 202


@pytest.mark.parametrize(("code", "again"), [("time_limit", 202), ("worker_lost", 202), ("dataset_invalid", 200)])
def test_what_failed_for_the_machine_is_made_anew_some_minutes_later(
    server: RunningServer, sessions: Sessions, code: str, again: int
) -> None:
    address = f"/v1/datasets/{put(server, 'dataset', b'anything')}/description"
    server.client.get(address)
    with sessions.begin() as session:
        now = clock(session)
        taken = descriptions.take(session, "host:1/", now, now + timedelta(minutes=1))
        assert taken is not None
        failed = {"state": "failed", "problem_code": code, "problem_detail": "no answer"}
        assert descriptions.end(session, taken, "host:1/", failed)
    assert server.client.get(address).json()["state"] == "failed"
    with sessions.begin() as session:
        session.query(DescriptionRow).one().asked_at -= service.MADE_ANEW_AFTER
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: server.client.get(address), range(4)))
    assert {answer.status_code for answer in answers} == {again}
    assert len(server.wakes) == (2 if again == 202 else 1)


@ONE_SETUP
def test_an_idle_worker_is_woken_for_it(server: RunningServer, sessions: Sessions) -> None:
    from app.lifecycle import presence

    presence.seen(sessions, "host:1", job_id=None, progressed=True, processor="any")
    assert workers_to_wake(sessions) == 0
    server.client.get(f"/v1/datasets/{put(server, 'dataset', b'anything')}/description")
    assert workers_to_wake(sessions) == 1


@ONE_SETUP
def test_a_child_that_says_what_is_no_description_is_not_believed(server: RunningServer) -> None:
    from pydantic import ValidationError

    from workers.describer import _document
    from workers.wire import WireBroken

    sound = {"form": "npz", "arrays": [], "samples": 1, "labels": None, "thumbnails": [], "notes": []}
    assert _document("dataset", {"do": "described", "document": sound})["samples"] == 1
    for change in ({"thumbnails": ["javascript:alert(1)"]}, {"samples": "many"}, {"more": 1}, {"form": "x" * 2000}):
        with pytest.raises(ValidationError):
            _document("dataset", {"do": "described", "document": {**sound, **change}})
    with pytest.raises(WireBroken):
        _document("dataset", {"do": "failed", "code": "no such code", "detail": ""})
