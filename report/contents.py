"""The charts by name, with what each reads and says: for whoever shows one without drawing it."""

from __future__ import annotations

from dataclasses import dataclass

DOCUMENTS = ("plan", "frontier", "sensitivity", "samples", "certificate")
"""Kinds of documents that a job may have as results."""


PAGE = "report.html"
MODEL_CARD = "model-card.md"


@dataclass(frozen=True, slots=True)
class ChartFacts:
    """A chart: the kinds of documents that it reads, its title, what it shows."""

    reads: tuple[str, ...]
    title: str
    description: str
    shows_stages: bool = False


COMPARISON = "comparison"
ACROSS_JOBS = {
    COMPARISON: ChartFacts(
        ("compared",),
        "Frontiers of several jobs",
        "Predicted damage of plans by their cost: a line for each job, with a mark at the plan that it delivered.",
    ),
}
"""Charts of several jobs at once, which are no part of the results of one."""

CHARTS = {
    "interval": ChartFacts(
        ("plan",),
        "The drop against the budget",
        "For each claim of the certificate the measured drop with its interval, and the budget.",
    ),
    "frontier": ChartFacts(
        ("plan", "frontier"),
        "Size against damage",
        "Above, the predicted damage of plans by their cost: the frontier as a line, with uniform widths and the "
        "delivered plan. Below, the measured drop of the plans that were tried, of the float model and of the "
        "delivered file, against the budget.",
    ),
    "layers": ChartFacts(
        ("plan",),
        "The plan along the network",
        "A bar for each layer in the order of the network: its bits, its bytes and its predicted damage.",
    ),
    "interactions": ChartFacts(
        ("plan", "sensitivity"),
        "Interactions between layers",
        "A heat map of layers against layers: what two layers at their chosen formats lose together beyond what each "
        "loses alone, in nats.",
    ),
    "agreement": ChartFacts(
        ("sensitivity",),
        "Predicted against measured damage",
        "Above, the rank correlation of each method's predictions with the measured damage of random plans. Below, "
        "the plans themselves for the methods that agree best.",
    ),
    "outputs": ChartFacts(
        ("samples",),
        "The samples that lose most",
        "For each of the worst held-out samples, what the float model and the delivered file give.",
    ),
    "stages": ChartFacts((), "Time by stage", "A bar for each stage of the job with the seconds it took.", True),
}
"""In the order in which a report shows them."""
