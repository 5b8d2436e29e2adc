"""A plan on the terminal: what it came to first, then what it leaves out, then its layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Column, Table
from rich.text import Text

from app.cli.output import CONSOLE, plain, printable
from app.schemas.headline import headline, loading, reason

_WORTH_A_LINE = 0.05  # share of the weight bytes
_NAMED = 5


def show_plan(plan: Mapping[str, Any]) -> None:
    """What the plan came to, why not more, what it leaves as it is, and its layers."""
    show_headline(plan)
    for line in _details(plan):
        CONSOLE.print(plain(line), soft_wrap=True, highlight=False)
    layers = plan.get("layers", ())
    columns = {
        "name": "layer",
        "weights": "weights",
        "bits": "bits",
        "bytes": "bytes",
        "sparsity": "zeros",
        "damage": "damage [nats]",
    }
    shown = [name for name in columns if any(layer.get(name) is not None for layer in layers)]
    table = Table(*(Column(columns[name], justify="left" if name == "name" else "right") for name in shown))
    for layer in layers:
        table.add_row(*(_cell(name, layer.get(name)) for name in shown))
    if shown:
        CONSOLE.print(table)


def show_headline(plan: Mapping[str, Any]) -> None:
    """The line that says what a plan or the summary of a job came to, and why the budget was not met."""
    if line := headline(plan):
        style = "bold green" if plan.get("outcome") == "met" else "bold"
        CONSOLE.print(Text(printable(line), style), soft_wrap=True)
    if why := reason(plan):
        CONSOLE.print(plain(why), soft_wrap=True, highlight=False)


def _details(plan: Mapping[str, Any]) -> Iterator[str]:
    certificate = plan.get("certificate")
    if certificate:
        yield (
            f"{certificate['metric']} on {certificate['samples']:,} held-out samples: drop {certificate['drop']:+.4g} "
            f"({certificate['level']:.0%} interval {certificate['low']:+.4g} to {certificate['high']:+.4g})"
        )
        yield from _claims(certificate)
        for blind in certificate.get("blind_to", ()):
            yield f"blind to: {blind['null']} (a network that knows nothing there keeps the budget, too)"
    if line := loading(plan):
        yield line
    yield from _left_as_they_are(plan)


def _claims(certificate: Mapping[str, Any]) -> Iterator[str]:
    """A line for each claim, where there are several, and why its metric was taken."""
    claims = certificate.get("claims", ())
    for claim in claims if len(claims) > 1 or any(claim["parts"] > 1 for claim in claims) else ():
        worst = f" (worst of {claim['parts']}: {claim['part']})" if claim["parts"] > 1 else ""
        yield (
            f"  {' and '.join(claim['outputs'])}: {claim['metric']} drop {claim['drop']:+.4g}{worst}, "
            f"allowed {claim['max_drop']:g}: {claim['reason']}"
        )


def _left_as_they_are(plan: Mapping[str, Any]) -> Iterator[str]:
    """What no plan touches, of what nothing is measured, and what was not rewritten."""
    left = plan.get("stays_float")
    if left and left["share"] >= _WORTH_A_LINE:
        names = ", ".join(_with_reason(tensor) for tensor in left["tensors"][:_NAMED])
        yield f"{left['share']:.0%} of the weight bytes stay float{': ' + names if names else ''}"
    codes = plan.get("stays_quantized")
    if codes and codes["bytes"]:
        yield f"{codes['bytes']:,} bytes of weights came quantized and are kept (--requantize plans them anew)"
    if plan.get("unreached"):
        yield f"no sample reached {', '.join(plan['unreached'][:_NAMED])}: nothing is measured of them"
    if plan.get("undone"):
        yield f"analysed at opset {plan['undone']['opset']}: {plan['undone']['why']}"


def _with_reason(tensor: Mapping[str, Any]) -> str:
    why = tensor.get("reason")
    return f"{tensor['name']} ({why})" if why else str(tensor["name"])


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name == "sparsity" and isinstance(value, (int, float)):
        return f"{value:.1%}"
    if name == "damage" and isinstance(value, (int, float)):
        return f"{value:.2e}"
    return plain(f"{value:,}" if isinstance(value, int) else value)
