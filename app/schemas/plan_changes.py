"""Plans that name only what differs from another one: the plan that a job delivered, or a point of its frontier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app.errors import AppError
from app.schemas.plan import ALL_FLOAT, AppliedFormat, AppliedLayer, AppliedPlan

Row = Mapping[str, Any]
MOST_LISTED = 20


def changed_plan(delivered: Mapping[str, Any], changes: AppliedPlan) -> AppliedPlan:
    """The whole plan: what `changes` name gets their formats, all else keeps that of the plan `delivered`.

    Layers may be named by their weight or node too. A layer keeps the formats that GPTQ rounded it to at once, so that
    another one of them gives the bits that the search saw.

    Raises:
        AppError: `layers_unknown`; `plan_invalid`: a name means several layers, two names mean one, or `bits` were
            changed without the format.
    """
    layers, activations = delivered["layers"], delivered["activations"]
    given = _by_name(layers, changes.layers, "plan.layers")
    return AppliedPlan(
        layers=[_layer(row, given.get(row["name"])) for row in layers],
        **_activations(activations, changes),
    )


def point_plan(delivered: Mapping[str, Any], point: Mapping[str, Any]) -> dict[str, Any]:
    """A point of the frontier, with the rows of the plan that its job delivered and the formats of the point."""
    formats, bits = point["formats"], point["bits"]

    def at_the_point(row: Row) -> Row:
        # of a network that came in float16 what stays float is float16 in the plan, and float32 in the frontier
        is_same = bits[row["name"]] == 32 and row["format"].startswith("float")
        return row if is_same else {**row, "format": formats[row["name"]], "bits": bits[row["name"]]}

    return {part: [at_the_point(row) for row in delivered[part]] for part in ("layers", "activations")}


def _activations(rows: Sequence[Row], changes: AppliedPlan) -> dict[str, Any]:
    """Members of the whole plan about activations. Where the base has none, those that are not named stay float32."""
    if changes.activations is None:
        return {"activations": [AppliedFormat(name=row["name"], format=row["format"]) for row in rows]}
    if not changes.activations:
        return {"activations": []}
    if not rows:
        return {"base": ALL_FLOAT, "activations": changes.activations}
    given = _by_name(rows, changes.activations, "plan.activations")
    return {"activations": [_activation(row, given.get(row["name"])) for row in rows]}


def _layer(row: Row, given: AppliedFormat | None) -> AppliedLayer:
    company = given.rounded_with if isinstance(given, AppliedLayer) else None
    return AppliedLayer(
        name=row["name"],
        format=_format(row, given, "plan.layers"),
        rounded_with=row.get("rounded_with") if company is None else company,
    )


def _activation(row: Row, given: AppliedFormat | None) -> AppliedFormat:
    return AppliedFormat(name=row["name"], format=_format(row, given, "plan.activations"))


def _format(row: Row, given: AppliedFormat | None, part: str) -> str:
    before = str(row["format"])
    if given is None:
        return before
    if given.format == before and given.bits not in (None, row.get("bits", given.bits)):
        raise AppError(
            "plan_invalid",
            f"{part} gives {row['name']!r} {given.bits:g} bits, and still the format {before}; the format decides: "
            "change it, and leave bits out",
        )
    return given.format


def _by_name(rows: Sequence[Row], given: Sequence[AppliedFormat], part: str) -> dict[str, AppliedFormat]:
    """What is given to each row that is named, by the row's own name."""
    meant: dict[str, AppliedFormat] = {}
    known = _meanings(rows)
    if unknown := [row.name for row in given if row.name not in known]:
        names = [str(row["name"]) for row in rows]
        listed = ", ".join(names[:MOST_LISTED]) + (
            f" and {len(names) - MOST_LISTED:,} more" * (len(names) > MOST_LISTED)
        )
        raise AppError(
            "layers_unknown",
            f"{part} names {', '.join(map(repr, unknown))}, which the plan that it changes does not have; that one has "
            f"{listed}",
        )
    for row in given:
        own = known[row.name]
        if len(own) > 1:
            raise AppError(
                "plan_invalid",
                f"{part} names {row.name!r}, which is a node or a weight of several layers: {', '.join(own)}; say "
                "which by these names",
            )
        if own[0] in meant:
            raise AppError("plan_invalid", f"{part} names {own[0]!r} twice, once by another name; keep one of both")
        meant[own[0]] = row
    return meant


def _meanings(rows: Sequence[Row]) -> Mapping[str, Sequence[str]]:
    """Names of rows by what they may be called: a row's own name goes before the weights and nodes of others."""
    meanings: dict[str, list[str]] = {}
    for row in rows:
        for name in {row.get("weight"), *row.get("nodes", ())} - {None, ""}:
            meanings.setdefault(str(name), []).append(row["name"])
    return {**meanings, **{row["name"]: [row["name"]] for row in rows}}
