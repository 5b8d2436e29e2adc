"""What is shown while one waits."""

from __future__ import annotations

from io import StringIO

from bitbudget_client.documents import Job
from bitbudget_client.progress import Display, NotebookBar, TerminalLine, display_of
from tests.client.conftest import job_document


def test_a_line_in_a_terminal_is_written_over_and_cannot_steer_it() -> None:
    stream = StringIO()
    line = TerminalLine(stream)
    line.moved("net\x1b[31m.onnx", 1_000_000, 2_000_000)
    line.job(Job(job_document(state="running", stage="plan", progress=0.25, eta_seconds=3.2)))
    line.close()
    text = stream.getvalue()
    assert "\x1b" not in text
    assert "50% net?[31m.onnx 1.0 of 2.0 MB" in text
    assert f" 25% job {'0' * 32}: plan, about 3 s left" in text
    assert text.endswith("\n")


def test_a_bar_in_a_notebook_is_escaped() -> None:
    shown: list[str] = []

    class Handle:
        def update(self, page: str) -> None:
            shown.append(page)

    bar = NotebookBar(lambda page, display_id: Handle(), lambda page: page)
    bar.moved("<b>", 1, 2)
    bar.job(Job(job_document(state="succeeded", outcome="met", progress=1.0)))
    assert shown[0].startswith('<progress max="1" value="0.500"></progress> &lt;b&gt;')
    assert shown[1].endswith(": met")


def test_nothing_is_shown_where_nobody_looks() -> None:
    assert type(display_of(False)) is Display
    seen: list[Job] = []
    job = Job(job_document())
    display_of(seen.append).job(job)
    assert seen == [job]
