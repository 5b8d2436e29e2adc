"""What a budget means, in sentences: the same words for whoever sets one on the page and in the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

from app.schemas.budget import Budget
from app.schemas.metric_words import ABSOLUTE, NOUNS

HELD_OUT_SHARE = 0.3
"""Of the samples of a job that measure the certificate alone, as `evaluation.splits` cuts them."""

SYNTHETIC_SAMPLES = 512
"""Made of the shapes of the inputs where a request names no dataset, as `pipeline.workspace` does."""

_GROWS = ("perplexity", "ctc", "mse", "mae")
"""Metrics of which more is worse."""
_LOSE_ONLY = ("agreement",)
"""Of those that count samples as right or wrong, the ones that can lose samples and win none."""
_COUNTS = ("top1", "top5", "flips", *_LOSE_ONLY)
"""Metrics that count each sample as right or wrong, where it has one prediction."""
_MAY_COUNT = (None, *_COUNTS)
_USUAL_K: Mapping[str | None, int] = {"top5": 5, "recall_at_k": 1}


@dataclass(frozen=True, slots=True)
class BudgetMeaning:
    """A budget in words."""

    promise: str
    """What may be lost."""
    measured: str
    """On what it is measured, and how fine that is."""
    confidence: str
    """What decides: the measured drop, or the end of its interval."""
    warning: str | None
    """Why these samples cannot show that the budget is kept, and what would; None: they can, as far as is known."""

    @property
    def sentences(self) -> tuple[str, ...]:
        """All of it, in the order in which it is read."""
        return tuple(filter(None, (self.promise, self.measured, self.confidence, self.warning)))


def meaning(
    budget: Budget, samples: int | None = None, *, synthetic: bool = False, all_held_out: bool = False
) -> BudgetMeaning:
    """What `budget` asks for.

    Args:
        samples: how many the dataset holds; None: not known.
        synthetic: there is no dataset.
        all_held_out: the job certifies a given file, so that every sample measures it.
    """
    if synthetic:
        samples = SYNTHETIC_SAMPLES
    held_out = None if samples is None else samples if all_held_out else max(1, round(HELD_OUT_SHARE * samples))
    counted = budget.metric_id is None and budget.kind == "absolute" and budget.metric in _MAY_COUNT
    return BudgetMeaning(
        _promise(budget),
        _measured(budget, samples, held_out, counted, synthetic),
        _confidence(budget, held_out if counted else None),
        _warning(budget, held_out, all_held_out) if counted and held_out is not None else None,
    )


def least_samples(max_drop: float, confidence: float | None, *, lose_only: bool = False) -> int:
    """How many held-out samples can show a drop of `max_drop`, of a metric that counts samples, if nothing changes.

    Without `confidence` those of which one is within the budget. With it those whose interval then ends within the
    budget: `z²/(n + z²)` (Tango 1998), or `1 - tail^(1/n)` (Clopper and Pearson 1934) where samples can only be lost.

    Args:
        max_drop: above 0 and below 1.
    """
    if confidence is None:
        return math.ceil(1 / max_drop - 1e-9)
    if lose_only:
        return math.ceil(math.log((1 - confidence) / 2) / math.log1p(-max_drop) - 1e-9)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    return math.ceil(z * z * (1 - max_drop) / max_drop - 1e-9)


def unchanged_end(held_out: int, confidence: float, *, lose_only: bool = False) -> float:
    """Where the interval of the drop ends, of a metric that counts samples, if not one of them changes."""
    if lose_only:
        return 1 - math.pow((1 - confidence) / 2, 1 / held_out)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    return z * z / (held_out + z * z)


def _promise(budget: Budget) -> str:
    drop, metric = budget.max_drop, budget.metric
    if budget.metric_id is not None:
        return _of_own_metric(budget)
    if drop == 0:
        return f"Nothing may be lost: the {NOUNS[metric]} on the held-out samples may not be worse at all."
    if budget.kind == "of_null":
        return (
            f"At most {100 * drop:.4g} % may be lost of what a network would lose that knows nothing and always "
            f"answers the mean, measured by the {NOUNS[metric]}."
        )
    if budget.kind == "relative":
        return _relative(metric, drop)
    number, of = _count(drop)
    k = budget.options.k
    return ABSOLUTE[metric].format(
        count=f"{number} of {of}",
        number=number,
        of=of,
        points=f"{100 * drop:.4g} {'point' if drop == 0.01 else 'points'}",
        value=f"{drop:.4g}",
        kept=f"{100 * (1 - drop):.6g} %",
        k=_USUAL_K.get(metric) if k is None else k,
        decibels=f"{100 - drop:.4g}",
        cosine=f"{1 - drop:.6g}",
    )


def _relative(metric: str | None, drop: float) -> str:
    head = f"The {NOUNS[metric]} may get worse by at most {100 * drop:.4g} % of your network's own value"
    if metric == "perplexity":
        return f"{head}: where that is 20, up to {20 * (1 + drop):.4g}."
    if metric in _GROWS:
        return f"{head}: where that is 0.2, up to {0.2 * (1 + drop):.4g}."
    if metric == "sqnr_db":
        return f"{head}: where that is 40 dB, down to {40 * (1 - drop):.4g} dB."
    return f"{head}: where that is 80 %, down to {80 * (1 - drop):.4g} %."


def _of_own_metric(budget: Budget) -> str:
    share = {"relative": " of your network's own value", "of_null": " of what a network loses that knows nothing"}
    amount = f"{100 * budget.max_drop:.4g} %{share[budget.kind]}" if budget.kind in share else f"{budget.max_drop:.4g}"
    way = "rise" if budget.options.higher_is_better is False else "fall"
    return f"The mean of your own metric may {way} by at most {amount}."


def _measured(budget: Budget, samples: int | None, held_out: int | None, counted: bool, synthetic: bool) -> str:
    if held_out is None or samples is None:
        return (
            f"It is measured on held-out samples, {HELD_OUT_SHARE:.0%} of yours, which take no part in making the file."
        ).replace("%", " %")
    of = "all of yours" if held_out == samples else f"{round(100 * HELD_OUT_SHARE)} % of {samples:,}"
    text = f"It is measured on {held_out:,} held-out samples, {of}"
    if synthetic:
        text += (
            ". They are made from the shapes of the inputs, because there are no samples of yours: that shows whether "
            "the file computes the same, and nothing about accuracy."
        )
        return text
    if not counted:
        return text + "."
    one = f"{text}: one of them is {100 / held_out:.2g} points"
    one += " where each counts as right or wrong" if budget.metric is None else ""
    if budget.confidence is not None:
        return one + "."
    allowed = math.floor(budget.max_drop * held_out + 1e-9)
    may = "none may be lost" if allowed == 0 else f"{allowed:,} may be lost"
    return f"{one}, so {may}."


def _confidence(budget: Budget, counted_on: int | None) -> str:
    level = budget.confidence
    if level is None:
        return (
            "The drop that these samples show decides; the certificate says in which interval the true one lies, with "
            "95 % confidence."
        )
    text = (
        f"With {100 * level:.4g} % confidence: the upper end of the drop's interval must keep the budget too, so that "
        "it holds for data like the samples and not for these samples alone."
    )
    if counted_on is None:
        return text
    end = unchanged_end(counted_on, level, lose_only=budget.metric in _LOSE_ONLY)
    return f"{text} Even if nothing changes, that end lies at {100 * end:.3g} points with {counted_on:,} samples."


def _warning(budget: Budget, held_out: int, all_held_out: bool) -> str | None:
    drop, level, lose_only = budget.max_drop, budget.confidence, budget.metric in _LOSE_ONLY
    within = drop == 0 if level is None else unchanged_end(held_out, level, lose_only=lose_only) <= drop
    if within or (level is None and drop * held_out >= 1 - 1e-9):
        return None
    if drop == 0:
        return "No interval ends at 0, so no file can keep this budget: allow a drop above 0, or leave confidence out."
    needed = least_samples(drop, level, lose_only=lose_only)
    needed = needed if all_held_out else math.ceil(needed / HELD_OUT_SHARE)
    if level is None:
        where = " where each counts as right or wrong" if budget.metric is None else ""
        return f"One sample is more than the budget{where}. To measure it take at least {needed:,} samples."
    end = unchanged_end(held_out, level, lose_only=lose_only)
    where = " where each sample counts as right or wrong" if budget.metric is None else ""
    return (
        f"With these samples no file can keep this budget{where}. Take at least {needed:,} samples, allow a drop of "
        f"{math.ceil(10_000 * end) / 10_000:g}, or leave confidence out."
    )


def _count(share: float) -> tuple[str, str]:
    """`share` as a number of things: 0.01 is 1 of 100, 0.0125 is 125 of 10,000; below 1 of a million rounded."""
    for of in (100, 1000, 10_000, 100_000, 1_000_000):
        number = share * of
        if number >= 1 - 1e-9 and abs(number - round(number)) < 1e-6:
            return f"{round(number):,}", f"{of:,}"
    if share >= 0.001:
        return f"{100 * share:.3g}", "100"
    return f"{1_000_000 * share:.3g}", "1,000,000"
