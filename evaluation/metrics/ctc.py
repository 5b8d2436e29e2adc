"""Label error rate of connectionist temporal classification, decoded greedily (Graves et al. 2006)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from evaluation.errors import MetricNotApplicable
from evaluation.metrics.labels import counted
from evaluation.metrics.measurement import Measurement
from evaluation.metrics.pair import Metric, Pair, classes_last, require_floats
from evaluation.metrics.predictions import NO_CLASS, Classes, checked_axis, classes_of, require_class, require_samples
from evaluation.metrics.ratios import ratio

_PADDING = -2


def ctc(pair: Pair) -> list[Measurement]:
    """Edit distance of the decoded tokens to the labels, over the number of labels, all samples together.

    Outputs are `[samples, steps, tokens]`, or with the tokens on the axis that the option says. Decoding takes the
    highest token of each step, one for each run of equals, and drops the option `blank` (0; -1 is the last token).
    Labels `[samples, n]` are the tokens of each sample, those below 0 padding; without labels they are what the float
    network decodes. A step without a highest token is a wrong token of its own.

    Raises:
        MetricNotApplicable: no tokens to compare with, labels that hold the blank; as all metrics of classes.
    """
    before, after = pair.single
    require_samples("ctc", pair.name, before)
    require_floats("ctc", pair.name, before)
    if before.ndim != 3:
        raise MetricNotApplicable(
            f"ctc needs an output [samples, steps, tokens], got {list(before.shape)} in {pair.name!r}; measure another "
            "output, or use agreement"
        )
    option = pair.options.get("axis")
    axis = checked_axis("ctc", pair.name, before, 2 if option is None else option)
    before, after = classes_last(before, axis), classes_last(after, axis)
    blank = _blank(pair, before.shape[-1])
    best = [classes_of(each) for each in (before, after)]
    require_class("ctc", pair.name, best[0] != NO_CLASS)
    decoded = [decode(each, blank) for each in best]
    labels = pair.truth.labels(pair.name)
    truth = decoded[0] if labels is None else _tokens(pair, labels, before.shape[-1], blank)
    lengths = (truth != _PADDING).sum(1).astype(np.float64)
    if not lengths.any():
        raise MetricNotApplicable(
            f"ctc compares tokens, and the float network decodes none in output {pair.name!r}, {blank} being the "
            "blank; name the blank of the network, or add labels"
        )
    values = [ratio(edit_distances(each, truth).astype(np.float64), lengths) for each in decoded]
    measured = Measurement.of_set("ctc", values[0], values[1], pair.samples, higher_is_better=False)
    return [measured if labels is not None else replace(measured, references=np.ones(pair.samples))]


def decode(best: Classes, blank: int) -> Classes:
    """Of the highest token of each step, `[samples, steps]`, the tokens that are left, `_PADDING` behind them.

    Example: blank 0, `[1, 1, 0, 1, 2]` -> `[1, 1, 2, padding, padding]`.
    """
    kept = best != blank
    kept[:, 1:] &= (best[:, 1:] != best[:, :-1]) | (best[:, 1:] == NO_CLASS)
    return _leftwards(best, kept)


def edit_distances(first: Classes, second: Classes) -> NDArray[np.int64]:
    """Levenshtein distance of each row of `first` [rows, n] to that of `second` [rows, m], padding behind, `[rows]`.

    The rows go side by side (Wagner and Fischer 1974). What is inserted in a row of the table is a running minimum:
    `d[j] = min over k <= j of d'[k] + j - k`, d' being without insertions.
    """
    rows, columns = len(first), np.arange(second.shape[1] + 1)
    lengths, own = (first != _PADDING).sum(1), (second != _PADDING).sum(1)
    table = np.broadcast_to(columns, (rows, len(columns))).copy()
    distances = table[np.arange(rows), own]  # of rows with no token
    for i in range(1, int(lengths.max(initial=0)) + 1):
        cheapest = np.minimum(table[:, 1:] + 1, table[:, :-1] + (second != first[:, i - 1 : i]))
        table[:, 0] = i
        table[:, 1:] = cheapest
        table = np.minimum.accumulate(table - columns, axis=1) + columns
        ended = lengths == i
        distances[ended] = table[ended, own[ended]]
    return np.asarray(distances, dtype=np.int64)


def _blank(pair: Pair, tokens: int) -> int:
    blank = pair.options.get("blank")
    blank = 0 if blank is None else blank
    if not -tokens <= blank < tokens:
        raise MetricNotApplicable(
            f"ctc was given the blank {blank}, output {pair.name!r} has {tokens} tokens; expected 0 to "
            f"{tokens - 1}, or -1 for the last"
        )
    return int(blank % tokens)


def _tokens(pair: Pair, labels: Classes, tokens: int, blank: int) -> Classes:
    """The labels `[samples, n]` without what does not count, `_PADDING` behind them."""
    if labels.ndim != 2 or len(labels) != pair.samples:
        raise MetricNotApplicable(
            f"ctc of output {pair.name!r} needs labels [{pair.samples}, n], the tokens of each sample, got "
            f"{list(labels.shape)}; save them padded with -1"
        )
    known = counted("ctc", pair.name, labels, tokens)
    if (labels == blank).any():
        sample = int(np.argmax((labels == blank).any(1)))
        raise MetricNotApplicable(
            f"labels of sample {sample} hold {blank}, the blank of ctc, which stands for no token in output "
            f"{pair.name!r}; pad labels with -1, or name the blank of the network"
        )
    return _leftwards(labels, known)


def _leftwards(tokens: Classes, kept: NDArray[np.bool_]) -> Classes:
    """The kept tokens of each row in their order, `_PADDING` behind them."""
    order = np.argsort(~kept, axis=1, kind="stable")
    return np.where(np.take_along_axis(kept, order, 1), np.take_along_axis(tokens, order, 1), _PADDING)


CTC = Metric("ctc", ctc, ("labels",), options=("blank", "axis"))
