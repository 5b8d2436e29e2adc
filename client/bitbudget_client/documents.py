"""What the server answers, as values. Each keeps the whole `document`: members of newer servers are not lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

Document = Mapping[str, Any]

_WAITING = ("queued", "running")


@dataclass(frozen=True)
class Job:
    """A job as it was when it was asked for."""

    document: Document

    @property
    def id(self) -> str:
        return str(self.document["id"])

    @property
    def name(self) -> str | None:
        name: str | None = self.document["name"]
        return name

    @property
    def state(self) -> str:
        """`queued`, `running`, `succeeded`, `failed` or `cancelled`."""
        return str(self.document["state"])

    @property
    def outcome(self) -> str | None:
        """Of a job that succeeded: `met`, `not_met` or `deadline`."""
        outcome: str | None = self.document["outcome"]
        return outcome

    @property
    def stage(self) -> str | None:
        """The stage that runs, or ran last."""
        stage: str | None = self.document["stage"]
        return stage

    @property
    def progress(self) -> float:
        """Done of the whole job, 0 to 1."""
        return float(self.document["progress"])

    @property
    def eta_seconds(self) -> float | None:
        """Seconds until it will have ended, where that can be said."""
        seconds: float | None = self.document["eta_seconds"]
        return seconds

    @property
    def attempt(self) -> int:
        """How often a worker has taken it."""
        return int(self.document["attempt"])

    @property
    def ended(self) -> bool:
        return self.state not in _WAITING

    @property
    def succeeded(self) -> bool:
        return self.state == "succeeded"

    @property
    def request(self) -> Document:
        """The request, every default filled in."""
        request: Document = self.document["request"]
        return request

    @property
    def summary(self) -> Document | None:
        summary: Document | None = self.document["summary"]
        return summary

    @property
    def certifies(self) -> bool:
        """Whether it certifies a quantized file, and makes no plan."""
        return "quantized_id" in self.request

    @property
    def applies_plan(self) -> bool:
        """Whether it applies a plan, and searches for none."""
        return self.request.get("plan") is not None


@dataclass(frozen=True)
class Upload:
    """A model or dataset on the server; its id is the SHA-256 of its contents."""

    document: Document

    @property
    def id(self) -> str:
        return str(self.document["id"])

    @property
    def name(self) -> str:
        return str(self.document["name"])

    @property
    def tags(self) -> tuple[str, ...]:
        return tuple(self.document["tags"])

    @property
    def size_bytes(self) -> int:
        return int(self.document["size_bytes"])

    @property
    def created_at(self) -> datetime:
        return datetime.fromisoformat(str(self.document["created_at"]).replace("Z", "+00:00"))


@dataclass(frozen=True)
class Event:
    """Something that happened to a job; `number` is None for `progress`, which is not repeated."""

    kind: str
    data: Document
    number: int | None


@dataclass(frozen=True)
class Layer:
    """A row of the plan: what one weight gets."""

    document: Document

    @property
    def name(self) -> str:
        return str(self.document["name"])

    @property
    def format(self) -> str:
        """Such as `int4/channel`; `float32` for a layer that is kept."""
        return str(self.document["format"])

    @property
    def bits(self) -> float:
        """Of one weight; coded weights have tenths."""
        bits: float = self.document["bits"]
        return bits

    @property
    def weights(self) -> int:
        """How many there are."""
        return int(self.document["weights"])

    @property
    def size_bytes(self) -> int:
        """What it takes in the file."""
        return int(self.document["bytes"])

    @property
    def sparsity(self) -> float | None:
        """The share of its stored codes that stand for exactly 0; None in plans of older servers."""
        return self.document.get("sparsity")

    @property
    def load_ms(self) -> float | None:
        """What it adds to the predicted time to load; None in plans of older servers."""
        return self.document.get("load_ms")

    @property
    def damage(self) -> float | None:
        """Predicted rise of the loss if this layer alone is quantized, in nats; None for a plan that was applied."""
        damage: float | None = self.document["damage"]
        return damage


@dataclass(frozen=True)
class Certificate:
    """What was measured on held-out samples with the quantized file; figures are those of the worst claim."""

    document: Document

    @property
    def metric(self) -> str:
        return str(self.document["metric"])

    @property
    def met(self) -> bool:
        return bool(self.document["met"])

    @property
    def float_value(self) -> float:
        return float(self.document["float_value"])

    @property
    def quantized_value(self) -> float:
        return float(self.document["quantized_value"])

    @property
    def drop(self) -> float:
        return float(self.document["drop"])

    @property
    def interval(self) -> tuple[float, float]:
        """Of the true drop, at the confidence `level`."""
        return float(self.document["low"]), float(self.document["high"])

    @property
    def level(self) -> float:
        return float(self.document["level"])

    @property
    def max_drop(self) -> float:
        """The budget."""
        return float(self.document["max_drop"])

    @property
    def samples(self) -> int:
        return int(self.document["samples"])

    @property
    def statement(self) -> str:
        """All of it in words."""
        return str(self.document["statement"])


@dataclass(frozen=True)
class FrontierPoint:
    """A plan that no other plan beats in both cost and predicted damage."""

    document: Document

    @property
    def cost(self) -> float:
        return float(self.document["cost"])

    @property
    def predicted_damage(self) -> float:
        """In nats."""
        return float(self.document["predicted_damage"])

    @property
    def measured_drop(self) -> float | None:
        """On the search samples; None for a plan that was not run."""
        measured = self.document["measured"]
        return None if measured is None else float(measured["drop"])

    @property
    def chosen(self) -> bool:
        return bool(self.document["chosen"])

    @property
    def bits(self) -> Mapping[str, int]:
        """By layer."""
        bits: Mapping[str, int] = self.document["bits"]
        return bits
