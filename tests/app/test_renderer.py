"""The process that draws, as the service uses it: what it does when it is lost, late, refused or closed."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from app import renderer as rendering
from app.errors import AppError
from app.renderer import Drawing, Renderer, Source

DATA = Path(__file__).parents[1] / "report" / "data"
PATIENCE = 60.0


def drawing(file: str, **documents: bytes) -> Drawing:
    return Drawing(file, {kind: Source.of(contents) for kind, contents in documents.items()})


PLAN = (DATA / "plan.json").read_bytes()
CARD = drawing("model-card.md", plan=PLAN)


class Stopped:
    """A document whose reading begins, and goes on only once it may."""

    def __init__(self, contents: bytes) -> None:
        self.began, self.may_go_on = threading.Event(), threading.Event()
        self.reads = 0
        self.source = Source(len(contents), self._pieces)
        self._contents = contents

    def _pieces(self) -> Iterable[bytes]:
        self.reads += 1
        self.began.set()
        self.may_go_on.wait(PATIENCE)
        yield self._contents


@pytest.fixture
def renderer() -> Iterator[Renderer]:
    made = Renderer()
    yield made
    made.close()


def in_thread(renderer: Renderer, wanted: Drawing, project: str, codes: list[str]) -> threading.Thread:
    """A thread that asks for a drawing, and keeps the code of the error that it got."""

    def ask() -> None:
        try:
            renderer(wanted, project)
        except AppError as error:
            codes.append(error.code)

    thread = threading.Thread(target=ask)
    thread.start()
    return thread


def test_a_process_that_was_killed_is_started_anew(renderer: Renderer) -> None:
    first = renderer(CARD, None)
    process = renderer._process
    assert process is not None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert renderer(CARD, None) == first
    assert renderer._process is not process


def test_documents_that_cannot_be_drawn_end_in_an_error_and_harm_nobody_else(renderer: Renderer) -> None:
    with pytest.raises(AppError, match=r"charts/frontier.svg could not be drawn") as caught:
        renderer(drawing("charts/frontier.svg", plan=b"{}", frontier=b"{"), None)
    assert caught.value.code == "report_unavailable"
    assert renderer(CARD, None).startswith(b"---")


def test_a_name_with_control_characters_is_drawn_by_the_process_that_was_there(renderer: Renderer) -> None:
    renderer(CARD, None)
    process = renderer._process
    plan = json.loads(PLAN)
    plan["layers"][0]["name"] = "conv\x01"
    for file in ("charts/layers.svg", "charts/layers.png", "report.html"):
        assert renderer(drawing(file, plan=json.dumps(plan).encode()), None)
    assert renderer._process is process


def test_what_takes_too_long_is_given_up_after_one_try() -> None:
    renderer = Renderer()
    try:
        renderer(CARD, None)  # the process runs: one that ended by itself would be asked a second time
        renderer._longest_seconds = 0.01
        late = Stopped(PLAN)
        process = renderer._process
        assert process is not None

        def pieces() -> Iterable[bytes]:
            late.reads += 1
            process.wait(PATIENCE)  # until the timer has ended it
            yield PLAN

        with pytest.raises(AppError, match=r"within 0 s"):
            renderer(Drawing("model-card.md", {"plan": Source(len(PLAN), pieces)}), None)
        assert late.reads == 1
    finally:
        renderer.close()


def test_documents_are_read_one_drawing_at_a_time(renderer: Renderer) -> None:
    first, second = Stopped(PLAN), Stopped(PLAN)
    second.may_go_on.set()
    threads = [in_thread(renderer, Drawing("model-card.md", {"plan": first.source}), "a", [])]
    assert first.began.wait(PATIENCE)
    threads.append(in_thread(renderer, Drawing("model-card.md", {"plan": second.source}), "b", []))
    while renderer._waiting.total() < 2:
        threads[1].join(0.01)
    assert second.reads == 0
    first.may_go_on.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert second.reads == 1


def test_one_project_leaves_places_to_others(renderer: Renderer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "MOST_OF_A_PROJECT", 1)
    monkeypatch.setattr(rendering, "MOST_WAITING", 2)
    slow = Stopped(PLAN)
    codes: list[str] = []
    threads = [in_thread(renderer, Drawing("model-card.md", {"plan": slow.source}), "greedy", codes)]
    assert slow.began.wait(PATIENCE)
    with pytest.raises(AppError, match="many reports are drawn just now"):
        renderer(CARD, "greedy")
    threads.append(in_thread(renderer, CARD, "other", codes))
    while renderer._waiting.total() < 2:
        threads[1].join(0.01)
    with pytest.raises(AppError, match="many reports are drawn just now"):
        renderer(CARD, "third")
    slow.may_go_on.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert codes == []
    assert renderer(CARD, "greedy")
    assert not renderer._waiting


def test_a_document_that_cannot_be_read_leaves_no_answer_to_somebody_else(renderer: Renderer) -> None:
    def pieces() -> Iterable[bytes]:
        yield PLAN
        raise MemoryError

    with pytest.raises(MemoryError):
        renderer(Drawing("charts/layers.svg", {"plan": Source(len(PLAN), pieces)}), None)
    assert renderer(CARD, None).startswith(b"---")


def test_closing_does_not_wait_for_what_is_drawn() -> None:
    renderer = Renderer()
    codes: list[str] = []
    stuck = Stopped(PLAN)
    thread = in_thread(renderer, Drawing("model-card.md", {"plan": stuck.source}), "a", codes)
    assert stuck.began.wait(PATIENCE)
    process = renderer._process
    assert process is not None
    closing = threading.Thread(target=renderer.close)
    closing.start()
    assert process.wait(PATIENCE / 2) == -signal.SIGKILL  # while the document is still read
    stuck.may_go_on.set()
    thread.join(PATIENCE)
    closing.join(PATIENCE)
    assert codes == ["report_unavailable"]
    with pytest.raises(AppError, match="many reports are drawn just now"):
        renderer(CARD, None)


def test_what_was_drawn_is_kept_for_its_project(renderer: Renderer, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = Stopped(PLAN)
    documents.may_go_on.set()
    wanted = Drawing("model-card.md", {"plan": documents.source}, tag="one")
    first = renderer(wanted, "a")
    assert renderer(wanted, "a") == first
    assert documents.reads == 1
    assert renderer(wanted, "b") == first
    assert documents.reads == 2, "a project would learn what another one looked at"
    monkeypatch.setattr(rendering, "KEPT_BYTES", len(first))
    renderer(Drawing("model-card.md", {"plan": documents.source}, tag="two"), "a")
    assert documents.reads == 3
    renderer(wanted, "a")
    assert documents.reads == 4, "there is room for one"
    untagged = Drawing("model-card.md", {"plan": documents.source})
    renderer(untagged, "a")
    renderer(untagged, "a")
    assert documents.reads == 6
