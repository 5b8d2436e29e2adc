"""From files and a budget to a job, as steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

from bitbudget_client.calls import given, make
from bitbudget_client.documents import Document, Job, Upload
from bitbudget_client.sources import Source
from bitbudget_client.steps import Steps
from bitbudget_client.uploads import PIECES_FROM_BYTES, Sent, UploadCall, upload

File = Source | Upload
"""What is uploaded, or what was before."""


class Question(TypedDict, total=False):
    """What else may be said of a job: all of it may be left out, or None.

    `max_drop` is what may be spent (by default 0.01, one percentage point of accuracy), `metric` what accuracy means
    (by default one that fits each output). `request` has further members of the request (docs/api.md). `metric_graph`
    is a metric of one's own, an ONNX graph. `name`, `tags` and `priority` say nothing about what is computed.
    """

    max_drop: float | None
    metric: str | None
    request: Document | None
    metric_graph: File | None
    name: str | None
    tags: Sequence[str] | None
    priority: int | None


@dataclass(frozen=True, slots=True)
class Submission:
    """A question to the service.

    Args:
        path: of the call that takes it.
        files: by the part of the request that they are: `model`, `quantized`, `dataset`; None: there is none.
        key: the Idempotency-Key; None: a new one.
    """

    path: str
    question: Question
    files: Mapping[str, File | None] = field(default_factory=dict)
    key: str | None = None

    def body(self, ids: Mapping[str, str]) -> dict[str, Any]:
        """The request about the uploads with these ids."""
        asked = self.question
        body = dict(asked.get("request") or {})
        budget = dict(body.get("budget") or {})
        budget |= given({"max_drop": asked.get("max_drop"), "metric": asked.get("metric")})
        if "metric" in ids:
            budget["metric_id"] = ids["metric"]
        if budget:
            body["budget"] = budget
        labels = given({"name": asked.get("name"), "tags": asked.get("tags"), "priority": asked.get("priority")})
        if "tags" in labels:
            labels["tags"] = list(labels["tags"])
        return {**body, **labels, **{f"{part}_id": ids[part] for part in ids if part != "metric"}}


def submit(
    submission: Submission, seconds: float, sent: Sent, pieces_from_bytes: int = PIECES_FROM_BYTES
) -> Steps[Job]:
    """The job that answers the question, its files uploaded before.

    Raises:
        TypeError: the question has a member that there is not.
    """
    unknown = sorted(set(submission.question) - set(Question.__annotations__))
    if unknown:
        expected = ", ".join(Question.__annotations__)
        raise TypeError(f"there is no argument {', '.join(unknown)}; expected {expected}")
    ids: dict[str, str] = {}
    for part, file in {**submission.files, "metric": submission.question.get("metric_graph")}.items():
        if isinstance(file, Upload):
            ids[part] = file.id
        elif file is not None:
            kind = "dataset" if part == "dataset" else "model"
            there = yield from upload(UploadCall(kind, file, pieces_from_bytes=pieces_from_bytes), seconds, sent)
            ids[part] = there.id
    return (yield from make(submission.path, submission.body(ids), seconds, submission.key))
