"""What a job gave: the documents as values, for people who look at them and programs that go on with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bitbudget_client.calls import get, job, succeeded
from bitbudget_client.documents import Certificate, Document, FrontierPoint, Job, Layer
from bitbudget_client.html import figures, headline, table
from bitbudget_client.steps import Steps


@dataclass(frozen=True, repr=False)
class Plan:
    """The plan of a job, and what was measured of it.

    `plan` and `frontier` are the contents of plan.json and frontier.json; a job that applied a plan has no frontier.
    """

    job: Job
    plan: Document
    frontier_document: Document | None

    @property
    def outcome(self) -> str:
        """`met`, `not_met` or `deadline`."""
        return str(self.job.outcome)

    @property
    def met(self) -> bool:
        """Whether the budget holds on the held-out samples."""
        return self.outcome == "met"

    @property
    def reason(self) -> str | None:
        """Why the budget does not hold, and what can be reached; None where it does."""
        reason: str | None = self.plan["reason"]
        return reason

    @property
    def certificate(self) -> Certificate:
        return Certificate(self.plan["certificate"])

    @property
    def layers(self) -> Sequence[Layer]:
        """One for each planned weight."""
        return [Layer(row) for row in self.plan["layers"]]

    @property
    def frontier(self) -> Sequence[FrontierPoint]:
        """Plans that no other plan beats in both cost and predicted damage, the cheapest first."""
        points = [] if self.frontier_document is None else self.frontier_document["points"]
        return [FrontierPoint(point) for point in sorted(points, key=lambda point: point["cost"])]

    @property
    def float_size_bytes(self) -> int:
        """Of the uploaded file."""
        return int(self.plan["float_size_bytes"])

    @property
    def size_bytes(self) -> int:
        """Of the quantized file."""
        return int(self.plan["size_bytes"])

    @property
    def load_ms(self) -> float | None:
        """Predicted time to load the quantized file, of a reference machine; None in plans of older servers."""
        load = self.plan.get("load")
        return None if load is None else float(load["predicted_ms"])

    @property
    def times_smaller(self) -> float:
        return self.float_size_bytes / self.size_bytes

    def __repr__(self) -> str:
        kind, measured = type(self).__name__, figures(self.certificate)
        return f"<{kind} of job {self.job.id}: {self._sizes()}; {measured}; {self.outcome}>"

    def _repr_html_(self) -> str:
        rows = [(layer.name, layer.format, layer.weights, layer.size_bytes, layer.damage) for layer in self.layers]
        columns = ("layer", "format", "weights", "bytes", "damage [nats]")
        return headline(self._sizes(), self.outcome, self.reason, self.certificate) + table(columns, rows)

    def _sizes(self) -> str:
        return f"{self.float_size_bytes:,} to {self.size_bytes:,} bytes, {self.times_smaller:.1f} times smaller"


@dataclass(frozen=True, repr=False)
class Report:
    """What was measured and found of a quantized file that some other tool made; `document` is certificate.json."""

    job: Job
    document: Document

    @property
    def outcome(self) -> str:
        """`met`: the budget holds, and no finding is a defect; else `not_met`."""
        return str(self.job.outcome)

    @property
    def met(self) -> bool:
        return self.outcome == "met"

    @property
    def reason(self) -> str | None:
        """What misses the budget, and which defects there are; None where it is met."""
        reason: str | None = self.document["reason"]
        return reason

    @property
    def certificate(self) -> Certificate:
        return Certificate(self.document["certificate"])

    @property
    def findings(self) -> Sequence[Document]:
        """`code`, `severity` (`defect`, `warning`, `note`), `where` and `text` of each."""
        findings: Sequence[Document] = self.document["findings"]
        return findings

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of job {self.job.id}: {figures(self.certificate)}; {self.outcome}>"

    def _repr_html_(self) -> str:
        rows = [(finding["severity"], finding["where"], finding["text"]) for finding in self.findings]
        sizes = f"{self.document['float_size_bytes']:,} to {self.document['size_bytes']:,} bytes"
        return headline(sizes, self.outcome, self.reason, self.certificate) + table(("finding", "where", "what"), rows)


def plan_of(job_id: str, seconds: float) -> Steps[Plan]:
    """The plan of a job that has ended.

    Raises:
        JobFailed, JobCancelled: it has none.
        Problem: it has not ended, or certified a file.
    """
    ended = succeeded((yield from job(job_id, seconds)))
    plan = yield from get(f"/v1/jobs/{job_id}/plan", seconds)
    searched = ended.succeeded and not ended.applies_plan
    frontier = (yield from get(f"/v1/jobs/{job_id}/frontier", seconds)) if searched else None
    return Plan(ended, plan, frontier)


def report_of(job_id: str, seconds: float) -> Steps[Report]:
    """What a job says of the file that it certified; raises as `plan_of` does."""
    ended = succeeded((yield from job(job_id, seconds)))
    return Report(ended, (yield from get(f"/v1/jobs/{job_id}/certificate", seconds)))
