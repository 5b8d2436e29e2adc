"""The charts by name, with what each reads and says: for whoever shows one without drawing it."""

from __future__ import annotations

from dataclasses import dataclass

DOCUMENTS = ("plan", "frontier", "sensitivity", "samples", "certificate")
"""Kinds of documents that a job may have as results."""


@dataclass(frozen=True, slots=True)
class ChartFacts:
    """A chart: the kinds of documents that it reads, its title, what it shows."""

    reads: tuple[str, ...]
    title: str
    description: str
    shows_stages: bool = False


CHARTS = {
    "frontier": ChartFacts(
        ("plan", "frontier"),
        "Size against damage",
        "Above, the predicted damage of plans by their cost: the frontier as a line, with uniform widths and the "
        "delivered plan. Below, the measured drop of the plans that were tried, of the float model and of the "
        "delivered file, against the budget.",
    ),
}
