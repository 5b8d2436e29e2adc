"""Which metrics a certificate is about: those of the request, else for each output the first that fits and can see.

Without a request every output gets a claim, so that no output is bought with another. Where a metric that would fit is
blind (`evaluation.nulls`), the next one is taken, and the reason says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from evaluation.errors import DatasetError, MetricNotApplicable
from evaluation.label_fit import check_labels
from evaluation.labelled import label_axis
from evaluation.metrics.claim import Claim
from evaluation.metrics.detection_layout import find_detection
from evaluation.metrics.measurement import DropKind, Outputs
from evaluation.metrics.own import OWN, OwnMetric
from evaluation.metrics.registry import METRICS, metric_of
from evaluation.metrics.truth import Truth
from evaluation.nulls import sees, unseen
from evaluation.outputs import Meaning, OutputFacts


@dataclass(frozen=True)
class MetricChoice:
    """A metric that a request names, with what it says to it."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class OutputChoice:
    """What a request says of one output: how much it weighs in the damage, its metric, its budget. 0: it is ignored."""

    weight: float = 1.0
    metric: MetricChoice | None = None
    max_drop: float | None = None


@dataclass(frozen=True)
class Question:
    """What claims are chosen for: the float network's outputs on samples, what is right, the budget."""

    facts: tuple[OutputFacts, ...]
    outputs: Outputs
    truth: Truth
    kind: DropKind
    max_drop: float

    def sees(self, claim: Claim) -> bool:
        budget = self.max_drop if claim.max_drop is None else claim.max_drop
        return sees(replace(claim, max_drop=None), self.outputs, self.truth, self.kind, budget)

    def is_seen(self, claims: Sequence[Claim], fact: OutputFacts) -> bool:
        """Whether these claims can tell an output from its mean."""
        return not unseen(claims, fact, self.outputs, self.truth, self.kind, self.max_drop)


def choose(
    question: Question,
    metric: MetricChoice | None,
    outputs: Mapping[str, OutputChoice],
    own: OwnMetric | None = None,
) -> list[Claim]:
    """The claims of a job.

    Args:
        metric: for the whole network; None chooses.
        outputs: what the request says of single outputs.
        own: the graph that `metric` stands for, where that is the user's own.

    Raises:
        MetricGraphInvalid: the graph fails on these samples, or mixes them.
        MetricNotApplicable: a metric that fits none of the outputs, an output that is not there, or none is left;
            where a metric is chosen, labels that fit no output.
        DatasetLabelsOutOfRange: labels that are no classes of the network.
    """
    names = [fact.name for fact in question.facts]
    for name in outputs:
        if name not in names:
            raise MetricNotApplicable(
                f"outputs names {name!r}; the network's outputs are {', '.join(map(repr, names))}"
            )
    claims = [
        requested(question, _fact(question, name), choice.metric, choice.max_drop)
        for name, choice in outputs.items()
        if choice.metric is not None and choice.weight > 0
    ]
    taken = {name for claim in claims for name in claim.outputs}
    left = [
        fact for fact in question.facts if fact.name not in taken and outputs.get(fact.name, OutputChoice()).weight > 0
    ]
    if metric is not None and own is not None:
        claims.append(_of_graph(question, metric, outputs, own))
    elif metric is not None:
        claims += _for_the_network(question, metric, left, outputs, needed=not claims)
    else:
        check_labels(question.facts, question.outputs, question.truth)
        claims += _defaults(question, left, outputs)
    if not claims:
        raise MetricNotApplicable("no output is left to be measured; give at least one a weight above 0")
    return claims


def requested(question: Question, fact: OutputFacts, metric: MetricChoice, max_drop: float | None) -> Claim:
    """The claim of a metric that the request names for an output."""
    options = _options(metric.name, metric.options, fact, question)
    claim = Claim(metric.name, (fact.name,), max_drop, options, "as requested", fact.ragged)
    if metric_of(metric.name).several:
        floats = tuple(other.name for other in question.facts if other.meaning is not Meaning.CODES or other.padded)
        if not floats:
            raise MetricNotApplicable(f"{metric.name} reads outputs of floats, and the network has none; take same")
        claim = replace(claim, outputs=floats, padded=any(other.ragged for other in question.facts))
    claim.measure(question.outputs, question.outputs, question.truth)  # raises where it does not fit
    return claim


def _of_graph(question: Question, metric: MetricChoice, outputs: Mapping[str, OutputChoice], own: OwnMetric) -> Claim:
    """The claim of the user's own metric: what its graph reads it says itself."""
    for name in own.outputs:
        choice = outputs.get(name, OutputChoice())
        if choice.max_drop is not None and choice.metric is None:
            raise MetricNotApplicable(
                f"outputs.{name}.max_drop is a budget of an output alone, and the metric graph has one for all that it "
                f"reads; leave it out, or give outputs.{name}.metric, too"
            )
    options = {key: value for key, value in metric.options.items() if value is not None}
    padded = any(fact.padded for fact in question.facts if fact.name in own.outputs)
    claim = Claim(OWN, own.outputs, None, options, "your own metric, an ONNX graph", padded, own)
    own.require_samples_apart({name: question.outputs[name] for name in own.outputs}, question.truth)
    claim.measure(question.outputs, question.outputs, question.truth)  # raises where it does not fit
    return claim


def _for_the_network(
    question: Question,
    metric: MetricChoice,
    left: Sequence[OutputFacts],
    outputs: Mapping[str, OutputChoice],
    *,
    needed: bool,
) -> list[Claim]:
    """A metric for the whole network: of all outputs that it is made for, or the first of them."""
    found: list[Claim] = []
    first: MetricNotApplicable | DatasetError | None = None
    for fact in left:
        if found and not metric_of(metric.name).generic:
            break
        try:
            found.append(requested(question, fact, metric, outputs.get(fact.name, OutputChoice()).max_drop))
        except (MetricNotApplicable, DatasetError) as error:
            first = first or error
    if not found and needed:
        raise first or MetricNotApplicable(f"no output is left that {metric.name} could be measured of")
    return found


def _defaults(question: Question, left: Sequence[OutputFacts], outputs: Mapping[str, OutputChoice]) -> list[Claim]:
    claims = list(_detection(question, left))
    found = {name for claim in claims for name in claim.outputs}
    for fact in left:
        if (guess := _guess(question, fact)) is not None:
            claims.append(replace(guess, max_drop=outputs.get(fact.name, OutputChoice()).max_drop))
        if fact.ragged and fact.name in found and question.is_seen(claims, fact):
            continue  # rows of what was found: their number and order are no values
        max_drop = outputs.get(fact.name, OutputChoice()).max_drop
        blind: list[str] = []
        fitting = list(_fitting(question, fact))
        for claim in fitting:
            claim = replace(claim, max_drop=max_drop)
            if question.sees(claim):
                break
            blind.append(claim.metric)
        else:  # what does not depend on the samples: nobody can see more than that it stays
            claim = replace(fitting[-1], max_drop=max_drop)
            blind = blind[:-1]
        if blind:
            told = f"{' and '.join(blind)} would not tell the network from one that knows nothing"
            claim = replace(claim, reason=f"{claim.reason}; {told}")
        claims.append(claim)
    return claims


def _detection(question: Question, left: Sequence[OutputFacts]) -> Iterator[Claim]:
    """That detections stay, where outputs surely hold some and the metric can see."""
    outputs = {fact.name: question.outputs[fact.name] for fact in left}
    detector = find_detection(outputs)
    if detector is None:
        return
    padded = any(fact.ragged for fact in left if fact.name in detector.names)
    reason = "its outputs hold boxes and scores"
    options = dict(detector.options)
    # what looks like a score of any object may be that of a class that the labels name
    for further in ({}, {"objectness": False}) if options.get("objectness") else ({},):
        claim = Claim("detection_f1", detector.names, None, {**options, **further}, reason, padded)
        try:
            claim.measure(question.outputs, question.outputs, question.truth)
        except (MetricNotApplicable, DatasetError):
            continue
        if question.sees(claim):
            yield claim
        return


def _guess(question: Question, fact: OutputFacts) -> Claim | None:
    """That classes stay, of values that may be logits, beside the share explained: it may be a guess."""
    if fact.guess is None:
        return None
    claim = Claim("agreement", (fact.name,), None, {"axis": fact.guess}, fact.reason)
    try:
        claim.measure(question.outputs, question.outputs, question.truth)
    except MetricNotApplicable:
        return None
    return claim if question.sees(claim) else None


def _fitting(question: Question, fact: OutputFacts) -> Iterator[Claim]:
    """Claims that fit an output, the best first; the last is always measurable."""
    for name, reason in _candidates(question, fact):
        if name not in METRICS:
            continue
        claim = Claim(name, (fact.name,), None, _options(name, {}, fact, question), reason, fact.ragged)
        try:
            claim.measure(question.outputs, question.outputs, question.truth)
        except MetricNotApplicable:
            if name in ("explained", "same"):
                raise
        else:
            yield claim


def _candidates(question: Question, fact: OutputFacts) -> Iterator[tuple[str, str]]:
    truth, output = question.truth, question.outputs[fact.name]
    if fact.meaning is Meaning.CODES:
        yield "same", fact.reason
        return
    labels = truth.labels(fact.name) if fact.labelled else None
    targets = truth.targets(fact.name)
    if fact.class_like:
        if labels is not None and label_axis(fact.name, output, truth) is not None:
            if len(fact.shape) >= 3:
                yield "miou", fact.reason
            yield ("top1" if len(fact.shape) == 1 else "accuracy"), fact.reason
        elif labels is not None and labels.ndim == 2 and len(fact.shape) == 2:
            yield "ctc", "the labels are sequences of another length than the output"
        known = truth.labels(fact.name) is not None
        told = "the labels are about something else" if known else "no labels say which class is right"
        yield "agreement", f"{fact.reason}, and {told}"
    if fact.single and labels is not None and labels.size == len(output):
        yield "flips", "it is one score for each sample, with labels"
        yield "auc", "it is one score for each sample, with labels"
    if targets is not None and targets.size == output.size:
        yield "r2", "the data have targets of its shape"
    yield "explained", f"{fact.reason}; every channel group of it has to be explained"


def _options(name: str, given: Mapping[str, Any], fact: OutputFacts, question: Question) -> dict[str, Any]:
    """The options of the request, with the axis filled in that the output's facts say."""
    options = {key: value for key, value in given.items() if value is not None}
    unknown = [key for key in options if key not in metric_of(name).options]
    if unknown:
        allowed = ", ".join(metric_of(name).options) or "none"
        raise MetricNotApplicable(f"the metric {name} has no option {unknown[0]}; its options are: {allowed}")
    if "threshold" in metric_of(name).options and "threshold" not in options and not fact.class_like:
        # once for the whole job: parts of the samples might look otherwise
        output = question.outputs[fact.name]
        within = output.dtype.kind == "f" and float(output.min()) >= 0 and float(output.max()) <= 1
        options["threshold"] = 0.5 if within else 0.0
    if "axis" not in metric_of(name).options or "axis" in options or fact.axis is None:
        return options
    axis = fact.axis
    if not fact.class_like and name not in ("explained", "r2"):
        labelled = label_axis(fact.name, question.outputs[fact.name], question.truth)
        axis = len(fact.shape) if labelled is None else labelled
    return {**options, "axis": axis}


def _fact(question: Question, name: str) -> OutputFacts:
    return next(fact for fact in question.facts if fact.name == name)
