"""What a job came to, in one line, and why it missed its budget: the same words on page, terminal and report.

All take a plan (`plan.json`), a certificate document (`certificate.json`), or the summary of a job, which has the
members that they read. A member that an older version did not write is left out of the line.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

VERDICTS = {"met": "budget met", "not_met": "budget not met", "deadline": "budget not met before the deadline"}

_WORTH_A_RATIO = 1.1
_UNITLESS = ("share", "none")


def headline(plan: Mapping[str, Any]) -> str:
    """`1,088,477 -> 98,418 bytes (11.1 times smaller), top1 0.8900 -> 0.8889, budget met`, of claims the worst."""
    parts = []
    if "size_bytes" in plan:
        parts.append(f"{plan['float_size_bytes']:,} -> {plan['size_bytes']:,} bytes ({size_change(plan)})")
    timed = (plan.get("latency") or {}).get("measured")
    if timed:
        parts.append(f"{timed['float']['median_ms']:.3g} -> {timed['quantized']['median_ms']:.3g} ms")
    if plan.get("certificate"):
        parts.append(measured(plan["certificate"]))
    if "outcome" in plan:
        parts.append(VERDICTS[plan["outcome"]])
    return ", ".join(parts)


def size_change(plan: Mapping[str, Any]) -> str:
    """How much smaller the file is: `11.1 times smaller`, `4.2 % smaller`, `0.3 % larger`."""
    before, after = plan["float_size_bytes"], plan["size_bytes"]
    if before >= _WORTH_A_RATIO * after:
        return f"{before / after:.1f} times smaller"
    return f"{abs(1 - after / before):.1%}".replace("%", f" % {'smaller' if after <= before else 'larger'}")


def measured(certificate: Mapping[str, Any]) -> str:
    """Both values of the worst claim, in its unit: `top1 0.8900 -> 0.8889`; of several, with its output."""
    claims = certificate.get("claims") or ()
    worst = max(claims, key=lambda claim: claim["drop"] / (claim["max_drop"] or 1.0), default=certificate)
    several = len(claims) > 1 or worst.get("parts", 1) > 1
    place = f" of {worst['part'] or ' and '.join(worst['outputs'])}" if several else ""
    unit = worst.get("unit", "share")
    before, after = (_value(worst[name], unit) for name in ("float_value", "quantized_value"))
    shown = f"{worst['metric']}{place} {before} -> {after}"
    return shown if unit in _UNITLESS else f"{shown} {unit}"


def reason(plan: Mapping[str, Any]) -> str | None:
    """Why the budget is not met, by how much, and what could be reached; None where it is met."""
    why: str | None = plan.get("reason")
    if why is None:
        return None
    evaluated = (plan.get("search") or {}).get("evaluated")
    if not evaluated:
        return why
    best = min(evaluated, key=lambda row: (row["drop"], row["size_bytes"]))
    reached = f"(drop {best['drop']:.4g}) has {best['size_bytes']:,} bytes"
    return f"{why.rstrip('.')}. The most accurate plan that was evaluated {reached}."


def loading(plan: Mapping[str, Any]) -> str | None:
    """How long both files take to load, as predicted, and as measured where it was; None in older plans."""
    load = plan.get("load")
    if load is None:
        return None
    line = (
        f"Loading takes {load['predicted_ms']:.3g} ms as predicted for a reference machine, and {load['float_ms']:.3g} "
        "ms for the float network."
    )
    if measured := load.get("measured"):
        quantized, floats = measured["quantized"]["median_ms"], measured["float"]["median_ms"]
        line += f" Measured on the worker: {quantized:.3g} and {floats:.3g} ms."
    return line


def _value(value: float, unit: str) -> str:
    return f"{value:.4f}" if unit == "share" else f"{value:.4g}"
