"""`--change conv1=int8/channel`: a plan of which some formats are changed on the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from app.cli.output import Refused, WrongUsage
from app.errors import AppError
from app.schemas.parsing import parse_plan
from app.schemas.plan import AppliedFormat, AppliedLayer, AppliedPlan
from app.schemas.plan_changes import changed_plan

Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--change",
        help="Give a layer or an activation another format than the plan: conv1=int8/channel; may be given several "
        "times.",
        show_default="none",
    ),
]


def with_changes(plan: Mapping[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """`plan` with other formats of what the `changes`, such as `conv1=int8/channel`, name.

    Raises:
        Refused: a change cannot be read, the plan is none, or it has nothing of such a name.
    """
    if not changes:
        return dict(plan)
    given = dict(map(_change, changes))
    try:
        return {**plan, **_changed(plan, parse_plan(plan), given)}
    except AppError as error:
        raise Refused(error.detail) from None


def _changed(plan: Mapping[str, Any], parsed: AppliedPlan, given: Mapping[str, str]) -> dict[str, Any]:
    """Members of the plan that the changes replace."""
    of_activations = {row.name for row in parsed.activations or ()}
    activations = [AppliedFormat(name=n, format=f) for n, f in given.items() if n in of_activations]
    layers = [AppliedLayer(name=n, format=f) for n, f in given.items() if n not in of_activations]
    if parsed.base is None:
        rows = {part: _rows(plan.get(part) or ()) for part in ("layers", "activations")}
        changes = AppliedPlan(layers=layers, activations=activations or None, base="float32")
        return changed_plan(rows, changes).model_dump(mode="json")
    # what the base has besides, only the service knows
    kept = [row for row in parsed.layers if row.name not in given]
    changed = [row for row in parsed.activations or () if row.name not in given]
    part = {} if parsed.activations is None else {"activations": [*changed, *activations]}
    whole = parsed.model_copy(update={"layers": [*kept, *layers], **part})
    return whole.model_dump(mode="json")


def _rows(part: Any) -> list[Mapping[str, Any]]:
    return [{"name": n, "format": f} for n, f in part.items()] if isinstance(part, Mapping) else list(part)


def _change(text: str) -> tuple[str, str]:
    name, _, format_ = text.rpartition("=")
    if not name or not format_:
        raise WrongUsage(f"--change takes a layer and its format, like conv1=int8/channel, got {text!r}")
    return name, format_
