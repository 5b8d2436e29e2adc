"""How the certificate of a quantized file is shown: the answer first, then what was measured, then what was found."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Column, Table
from rich.text import Text

from app.cli.output import CONSOLE, plain, printable

_SEVERITIES = {"defect": "bold red", "warning": "yellow", "note": ""}
_LAYERS = 24  # shown, those with the largest errors
_NAMED = 8


def show_certificate(document: Mapping[str, Any]) -> None:
    """A certificate as `GET /v1/jobs/{job_id}/certificate` gives it."""
    certificate = document["certificate"]
    met = document["outcome"] == "met"
    head = ("certified", "bold green") if met else ("NOT certified", "bold red")
    why = "the budget is kept and no defect was found" if met else str(document["reason"])
    CONSOLE.print(Text.assemble(head, f": {printable(why)}"), soft_wrap=True)
    CONSOLE.print(plain(certificate["statement"]), soft_wrap=True, highlight=False)
    _show_measured(document)
    for blind in certificate["blind_to"]:
        CONSOLE.print(f"blind to: {plain(blind['null'])}", soft_wrap=True, highlight=False)
    _show_findings(document["findings"])
    _show_layers(document["inspection"]["weights"])
    _show_float(document)
    CONSOLE.print(
        f"{document['float_size_bytes']:,} bytes float, {document['size_bytes']:,} bytes quantized", highlight=False
    )


def _show_measured(document: Mapping[str, Any]) -> None:
    """The claims of the certificate, and below them every other metric that fits."""
    columns = ("float", "quantized", "drop", "interval", "budget", "null drop")
    table = Table("metric", "output", *(Column(name, justify="right") for name in columns))
    claims = document["certificate"]["claims"]
    claimed = [(claim["metric"], claim["outputs"]) for claim in claims]
    for claim in claims:
        kept = "" if claim["met"] else " !"
        table.add_row(*_measured(claim), f"{claim['max_drop']:g}{kept}", _null(claim))
    table.add_section()
    for claim in document["metrics"]:
        if (claim["metric"], claim["outputs"]) not in claimed:
            table.add_row(*_measured(claim), "", _null(claim))
    CONSOLE.print(table)


def _measured(claim: Mapping[str, Any]) -> tuple[str, ...]:
    place = claim["part"] or ", ".join(claim["outputs"])
    unit = "" if claim["unit"] in ("share", "none") else f" [{claim['unit']}]"
    return (
        plain(claim["metric"] + unit),
        plain(place),
        f"{claim['float_value']:.5g}",
        f"{claim['quantized_value']:.5g}",
        f"{claim['drop']:+.4g}",
        f"{claim['low']:+.4g} to {claim['high']:+.4g}",
    )


def _null(claim: Mapping[str, Any]) -> str:
    """The least that a network loses that knows nothing: what a drop has to be small against."""
    return f"{min(claim['null'].values()):.4g}" if claim["null"] else ""


def _show_findings(findings: Sequence[Mapping[str, Any]]) -> None:
    order = list(_SEVERITIES)
    for finding in sorted(findings, key=lambda found: order.index(found["severity"])):
        where = f" at {printable(finding['where'])}" if finding["where"] else ""
        title = (f"{finding['severity']} {printable(finding['code'])}", _SEVERITIES[finding["severity"]])
        CONSOLE.print(Text.assemble(title, f"{where}: {printable(finding['text'])}"), soft_wrap=True)


def _show_layers(weights: Sequence[Mapping[str, Any]]) -> None:
    """Bits and bytes of each weight, the largest errors first."""
    matched = [weight for weight in weights if weight["stored"] is not None]
    matched.sort(key=lambda weight: -(weight["closeness"]["error"] or 0.0))
    columns = ("bits", "used", "scales", "bytes", "error")
    table = Table("weight", "shape", "stored as", *(Column(name, justify="right") for name in columns))
    for weight in matched[:_LAYERS]:
        stored, error = weight["stored"], weight["closeness"]["error"]
        table.add_row(
            plain(weight["name"]),
            " x ".join(map(str, weight["shape"])),
            plain(" ".join(filter(None, (stored["element_type"], stored["granularity"])))),
            f"{stored['stored_bits']:g}",
            f"{stored['used_bits']:g}",
            f"{stored['scales']:,}",
            f"{stored['size_bytes'] + stored['scale_bytes']:,}",
            "" if error is None else f"{error:.2%}",
        )
    if matched:
        CONSOLE.print(table)
    if len(matched) > _LAYERS:
        CONSOLE.print(f"{len(matched) - _LAYERS} more weights have smaller errors", highlight=False)


def _show_float(document: Mapping[str, Any]) -> None:
    """What stayed float, and how many bytes of the file that is."""
    inspection = document["inspection"]
    if inspection["float_share"] is None:
        return
    floats = [w["name"] for w in inspection["weights"] if w["stored"] is not None and _is_float(w["stored"])]
    values = sum(math.prod(w["shape"]) for w in inspection["weights"] if w["name"] in floats)
    if floats:
        more = f" and {len(floats) - _NAMED} more" if len(floats) > _NAMED else ""
        CONSOLE.print(
            f"stayed float: {plain(', '.join(floats[:_NAMED]))}{more}, {values:,} values; weights in float32 are "
            f"{inspection['float_share']:.1%} of the file's tensors",
            soft_wrap=True,
            highlight=False,
        )


def _is_float(stored: Mapping[str, Any]) -> bool:
    return str(stored["element_type"]).startswith(("float", "bfloat"))
