"""A delivered plan as somebody edits it: what each layer may get, and what is predicted of the plan that results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from app.errors import AppError
from app.schemas.plan import ALL_FLOAT
from app.services.results import read_result
from app.store.blobs import BlobRef, read_json
from app.store.engine import Sessions
from app.store.jobs import find_artifact, find_job

MOST_ANCESTORS = 20
"""Replans of replans of a search, in which its sensitivity is looked for."""

MOST_SENSITIVITY_BYTES = 8 * 2**20
"""Of a sensitivity document that is read: its matrix grows with the square of what layers may get, and every change of
the form reads it anew."""

_FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Choice:
    """A format that a layer or an activation may get, and what is predicted of it alone; None: nothing is known."""

    format: str
    size_bytes: int | None
    damage: float | None


@dataclass(frozen=True, slots=True)
class EditedRow:
    """A layer or an activation of a plan, with what it may get."""

    name: str
    kind: str
    """The operator, or `activation`."""
    weights: int
    format: str
    """What the delivered plan gives it."""
    choices: Sequence[Choice]

    def choice(self, format_: str) -> Choice:
        """What is known of this format.

        Raises:
            AppError: `plan_invalid`: it is none of the choices.
        """
        for choice in self.choices:
            if choice.format == format_:
                return choice
        listed = ", ".join(choice.format for choice in self.choices)
        raise AppError("plan_invalid", f"{self.name!r} may get {listed}, got {format_[:100]!r}")


@dataclass(frozen=True, slots=True)
class Predicted:
    """What is predicted of an edited plan: bytes of the file, and its damage; None: nothing is known of it."""

    size_bytes: int | None
    damage: float | None
    changed: int


@dataclass(frozen=True)
class EditedPlan:
    """A plan to edit: layers in the order of the network, then activations."""

    plan: Mapping[str, Any]
    sensitivity: Mapping[str, Any] | None
    """None: no search of this or an earlier job is there, or its document is too large."""
    is_too_large: bool = False
    """Whether there is a sensitivity document of more than `MOST_SENSITIVITY_BYTES`."""

    @cached_property
    def rows(self) -> list[EditedRow]:
        """What may be edited."""
        layers = [self._row(row, row["op_type"], row["weights"]) for row in self.plan["layers"]]
        return [*layers, *(self._row(row, "activation", 0) for row in self.plan["activations"])]

    def predicted(self, formats: Sequence[str]) -> Predicted:
        """What is predicted of the plan with these formats, one for each of the `rows`.

        The damage is the sum over its candidates, and over all pairs of their interactions, as `sensitivity` has them.

        Raises:
            AppError: `plan_invalid`: a row may not get its format.
        """
        chosen = [row.choice(format_) for row, format_ in zip(self.rows, formats, strict=True)]
        before = [row.choice(row.format) for row in self.rows]
        changed = sum(now.format != then.format for now, then in zip(chosen, before, strict=True))
        size = self._size(chosen, before)
        damages = [choice.damage for choice in chosen]
        if self.sensitivity is None or any(damage is None for damage in damages):
            return Predicted(size, None, changed)
        own = sum(damage for damage in damages if damage is not None)
        matrix = self.sensitivity["interactions"]["matrix"]
        return Predicted(size, own + self._interactions(formats, matrix), changed)

    def changes(self, formats: Sequence[str]) -> dict[str, dict[str, str]]:
        """The members of a partial plan that give these formats, one for each of the `rows`; empty without a change."""
        parts: dict[str, dict[str, str]] = {}
        for row, format_ in zip(self.rows, formats, strict=True):
            if row.choice(format_).format != row.format:
                part = "activations" if row.kind == "activation" else "layers"
                parts.setdefault(part, {})[row.name] = format_
        return parts

    def _row(self, row: Mapping[str, Any], kind: str, weights: int) -> EditedRow:
        known = self._candidates.get(row["name"], ())
        delivered = Choice(row["format"], row["bytes"], row["damage"])
        choices = [Choice(own["format"], own.get("size_bytes"), own.get("damage")) for own in known]
        choices.append(Choice(ALL_FLOAT, _FLOAT_BYTES * weights if weights else None, 0.0))
        if row["format"] not in [choice.format for choice in choices]:
            is_float = row["bits"] == 32 or row["format"].startswith("float")
            choices.append(Choice(row["format"], row["bytes"], 0.0 if is_float else delivered.damage))
        return EditedRow(row["name"], kind, weights, row["format"], choices)

    def _size(self, chosen: Sequence[Choice], before: Sequence[Choice]) -> int | None:
        size = int(self.plan["size_bytes"])
        for now, then, row in zip(chosen, before, self.rows, strict=True):
            if now.format == then.format or row.kind == "activation":
                continue
            if now.size_bytes is None or then.size_bytes is None:
                return None
            size += now.size_bytes - then.size_bytes
        return size

    def _interactions(self, formats: Sequence[str], matrix: Sequence[Sequence[float | None]]) -> float:
        placed = [
            (place, factor)
            for row, format_ in zip(self.rows, formats, strict=True)
            if (place := self._places.get((row.name, format_))) is not None
            and (factor := self._factors.get((row.name, format_)))
        ]
        return sum(
            factor * other_factor * (matrix[place][other] or 0.0)
            for place, factor in placed
            for other, other_factor in placed
            if other != place
        )

    @cached_property
    def _candidates(self) -> dict[str, list[Mapping[str, Any]]]:
        return {} if self.sensitivity is None else {s["name"]: s["candidates"] for s in self.sensitivity["sites"]}

    @cached_property
    def _places(self) -> dict[tuple[str, str], int]:
        """Where each candidate stands in the matrix: sites in order, their candidates in order."""
        every = [(site, own["format"]) for site, candidates in self._candidates.items() for own in candidates]
        return {candidate: place for place, candidate in enumerate(every)}

    @cached_property
    def _factors(self) -> dict[tuple[str, str], float]:
        return {
            (site, own["format"]): own.get("interaction") or 0.0
            for site, candidates in self._candidates.items()
            for own in candidates
        }


def plan_to_edit(sessions: Sessions, job_id: str) -> EditedPlan:
    """The plan of the job; raises as `find_result`."""
    plan = read_result(sessions, job_id, "plan")
    blob = _sensitivity(sessions, job_id)
    if blob is None:
        return EditedPlan(plan, None)
    if blob.size_bytes > MOST_SENSITIVITY_BYTES:
        return EditedPlan(plan, None, is_too_large=True)
    return EditedPlan(plan, read_json(sessions, blob))


def _sensitivity(sessions: Sessions, job_id: str) -> BlobRef | None:
    """What the job found of its candidates, or the search that it is a replan of."""
    following: str | None = job_id
    for _ in range(MOST_ANCESTORS):
        with sessions.read() as session:
            job = None if following is None else find_job(session, following)
            artifact = None if job is None else find_artifact(session, job.id, "sensitivity")
        if job is None:
            return None
        if artifact is not None:
            return artifact[0]
        following = job.parent_id
    return None
