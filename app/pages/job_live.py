"""A job while it waits and runs, as the page shows it: made anew from its events whenever there is news."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from app.pages.sparkline import Sparkline, sparkline
from app.schemas.parsing import is_certificate
from app.services.reports import seconds_of
from app.store.tables import JobEventRow, JobRow

BEFORE_A_SEARCH = ("admit", "normalise", "resolve", "reference", "claims")
OF_A_SEARCH = ("calibrate", "cross_layer", "sensitivity", "agreement", "plan", "certify")
OF_A_PLAN = ("calibrate", "certify")
OF_A_CERTIFICATE = ("admit_float", "admit_pair", "reference", "claims", "inspect", "compare")

MEANINGS = {
    "admit": "look at the files",
    "admit_float": "look at the float model",
    "admit_pair": "look at the quantized file",
    "normalise": "rewrite the network, and prove that it is the same",
    "resolve": "find the formats that are allowed",
    "reference": "run the float network",
    "claims": "choose the metrics",
    "latency": "measure times",
    "calibrate": "round the weights to every format",
    "cross_layer": "measure what every format does, and how layers interact",
    "sensitivity": "estimate sensitivities",
    "agreement": "compare the estimates with measured plans",
    "plan": "search, and measure plans",
    "certify": "measure on held-out samples",
    "inspect": "look for defects",
    "compare": "measure both files",
}
"""What a stage does, for people."""

MOST_PLANS = 200
"""Measured plans that are shown, the last: all of them are sent again whenever there is news."""
CHART_WIDTH, CHART_HEIGHT, CHART_MARGIN = 480, 160, 10


@dataclass(frozen=True, slots=True)
class StageLine:
    """A stage with how it stands (`done`, `running`, `waiting`, `kept`: nothing was left to do) and what it took."""

    name: str
    meaning: str
    status: str
    seconds: float | None


@dataclass
class Live:
    """What the events of a job say, in their order."""

    timed: list[JobEventRow] = field(default_factory=list)
    """Those that begin and end stages."""
    plans: dict[tuple[Any, ...], Mapping[str, Any]] = field(default_factory=dict)
    """The plans that were run, once each: a worker that went on after another may have run some again."""

    def add(self, news: Sequence[JobEventRow]) -> None:
        """Go on with these events."""
        for event in news:
            if event.kind == "evaluated":
                # a later, longer measurement of a plan takes the place of the first
                self.plans[event.data.get("cost"), event.data.get("predicted_damage")] = event.data
            elif event.kind in ("stage", "state"):
                self.timed.append(event)

    def view(self, job: JobRow, now: datetime) -> dict[str, Any]:
        """What the template shows of the job at the moment `now`."""
        evaluated = list(self.plans.values())[-MOST_PLANS:]
        return {
            "job": job,
            "stages": self.stages(job, now),
            "evaluated": evaluated,
            "earlier": len(self.plans) - len(evaluated),
            "chart": chart(evaluated, job.request["budget"].get("max_drop")),
            "budget": job.request["budget"],
        }

    def stages(self, job: JobRow, now: datetime) -> list[StageLine]:
        """The stages of the job in their order."""
        spent = self._spent(now)
        names = [*stages_of(job.request), *(name for name in spent if name not in stages_of(job.request))]
        current = job.stage if job.state == "running" else None
        at = names.index(current) if current in names else -1
        lines = []
        for place, name in enumerate(names):
            status = "running" if name == current else "done" if name in spent else "kept" if place < at else "waiting"
            lines.append(StageLine(name, MEANINGS.get(name, name.replace("_", " ")), status, spent.get(name)))
        return lines

    def _spent(self, now: datetime) -> dict[str, float]:
        """Seconds of each stage that began, over all attempts, with those of the one that runs."""
        spent = seconds_of(self.timed)
        if self.timed and self.timed[-1].kind == "stage":
            last = self.timed[-1]
            running, seconds = last.data["stage"], (now - last.created_at).total_seconds()
            spent[running] = spent.get(running, 0.0) + max(seconds, 0.0)
        return spent


def stages_of(request: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the stages that a job with this request may have, in their order."""
    if is_certificate(request):
        return OF_A_CERTIFICATE
    if request.get("plan") is not None:
        return (*BEFORE_A_SEARCH, *OF_A_PLAN)
    limited = (request.get("limits") or {}).get("max_latency_ms") is not None
    timed = limited or request.get("objective") == "latency" or request.get("latency_table") is not None
    return (*BEFORE_A_SEARCH, *(["latency"] if timed else []), *OF_A_SEARCH)


def chart(evaluated: Sequence[Mapping[str, Any]], max_drop: float | None) -> Sparkline | None:
    """The plans that were measured, size to the right and drop upwards; None where there are fewer than two."""
    return sparkline(evaluated, max_drop, CHART_WIDTH, CHART_HEIGHT, CHART_MARGIN)
