"""Which metrics are chosen, and what a request can say about them. Whole jobs: tests/pipeline/test_claims.py."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit, softmax

from evaluation.choice import MetricChoice, OutputChoice, Question, choose
from evaluation.errors import DatasetLabelsOutOfRange, MetricNotApplicable
from evaluation.metrics.claim import Claim
from evaluation.metrics.measurement import DropKind
from evaluation.metrics.truth import Truth
from evaluation.outputs import facts_of

Array = NDArray[np.generic]
SAMPLES = 100
rng = np.random.default_rng(0)
LOGITS = (5 * rng.normal(size=(SAMPLES, 6))).astype(np.float32)
RIGHT = LOGITS.argmax(1)
NUMBERS = rng.normal(size=(SAMPLES, 4)).astype(np.float32)


def question(outputs: dict[str, Array], max_drop: float = 0.05, makers: dict[str, str] | None = None, **truth: Array):
    facts = facts_of(outputs, Truth(truth), makers or {})
    return Question(facts, outputs, Truth(truth), DropKind.ABSOLUTE, max_drop)


def chosen(outputs: dict[str, Array], makers: dict[str, str] | None = None, **truth: Array) -> list[Claim]:
    return choose(question(outputs, makers=makers, **truth), None, {})


SEQUENCES = (5 * rng.normal(size=(SAMPLES, 12, 6))).astype(np.float32)


def symbols(logits: Array) -> Array:
    """What a CTC network says, 0 being no symbol: repetitions count once; filled up with -1."""
    said = np.full((len(logits), logits.shape[1] + 1), -1)
    for row, classes in zip(said, logits.argmax(2), strict=True):
        kept = classes[(classes != 0) & np.append(True, classes[1:] != classes[:-1])]
        row[: len(kept)] = kept
    return said


MAPS = (5 * rng.normal(size=(SAMPLES, 6, 5, 5))).astype(np.float32)
SCORE = expit(3 * rng.normal(size=(SAMPLES, 1))).astype(np.float32)


@pytest.mark.parametrize(
    ("output", "truth", "metric"),
    [
        (LOGITS, {"labels": RIGHT}, "top1"),
        (softmax(LOGITS, axis=1), {"labels": RIGHT}, "top1"),
        (softmax(LOGITS, axis=1), {}, "agreement"),
        (SEQUENCES, {"labels": SEQUENCES.argmax(2)}, "accuracy"),
        (SEQUENCES, {"labels": symbols(SEQUENCES)}, "ctc"),
        (MAPS, {"labels": MAPS.argmax(1)}, "miou"),
        (SCORE, {"labels": (SCORE[:, 0] > 0.5).astype(np.int64)}, "flips"),
        (NUMBERS, {"targets": NUMBERS + rng.normal(0, 0.3, NUMBERS.shape).astype("f")}, "r2"),
        (NUMBERS, {}, "explained"),
        (RIGHT, {}, "same"),
    ],
    ids=["logits", "softmax", "no labels", "tags", "ctc", "masks", "score", "targets", "numbers", "codes"],
)
def test_the_default_follows_from_output_and_data(output: Array, truth: dict[str, Array], metric: str) -> None:
    (claim,) = chosen({"y": output}, **truth)
    assert (claim.metric, claim.outputs) == (metric, ("y",))
    assert claim.reason


def test_no_output_is_bought_with_another() -> None:
    claims = chosen({"a": LOGITS, "b": NUMBERS, "c": RIGHT}, labels=RIGHT)
    assert [(claim.metric, claim.outputs) for claim in claims] == [
        ("top1", ("a",)),
        ("explained", ("b",)),
        ("same", ("c",)),
    ]


def test_what_does_not_depend_on_the_samples_still_has_to_stay() -> None:
    (claim,) = chosen({"y": np.tile(NUMBERS[:1], (SAMPLES, 1))})
    assert claim.metric == "explained"


def test_targets_that_the_network_is_no_better_at_than_the_mean_choose_something_else() -> None:
    (claim,) = chosen({"y": NUMBERS}, targets=rng.normal(size=NUMBERS.shape).astype(np.float32))
    assert claim.metric == "explained"
    assert "r2 would not tell" in claim.reason


def test_a_metric_of_the_request_goes_to_what_it_is_made_for() -> None:
    outputs: dict[str, Array] = {"numbers": NUMBERS, "classes": LOGITS, "more": NUMBERS[:, :2]}

    def names(metric: str) -> list[tuple[str, ...]]:
        return [claim.outputs for claim in choose(question(outputs), MetricChoice(metric), {})]

    assert names("explained") == [("numbers",), ("classes",), ("more",)]
    assert len(names("kl")) == 1


def test_a_metric_of_an_output_leaves_the_rest_to_the_budget() -> None:
    outputs: dict[str, Array] = {"a": LOGITS, "b": NUMBERS}
    wanted = {"b": OutputChoice(metric=MetricChoice("mae"), max_drop=0.3)}
    claims = choose(question(outputs, labels=RIGHT), None, wanted)
    assert {claim.outputs[0]: (claim.metric, claim.max_drop) for claim in claims} == {
        "a": ("top1", None),
        "b": ("mae", 0.3),
    }


def test_budgets_of_outputs_come_with_default_metrics_too() -> None:
    claims = choose(question({"a": LOGITS, "b": NUMBERS}), None, {"b": OutputChoice(max_drop=0.3)})
    assert {claim.outputs[0]: claim.max_drop for claim in claims} == {"a": None, "b": 0.3}


def test_what_is_but_guessed_to_be_logits_is_also_measured_as_numbers() -> None:
    claims = chosen({"y": LOGITS})
    assert [claim.metric for claim in claims] == ["agreement", "explained"]
    assert "as logits" in claims[0].reason


def test_a_budget_under_which_the_default_is_blind_chooses_another() -> None:
    """One of two classes is right half of the time by chance: that is no budget for an accuracy."""
    two = (5 * rng.normal(size=(SAMPLES, 2))).astype(np.float32)
    labels = two.argmax(1)

    def metric(max_drop: float) -> str:
        return choose(question({"y": two}, max_drop, labels=labels), None, {})[0].metric

    assert metric(0.05) == "top1"
    assert metric(0.7) == "explained"


def test_the_threshold_of_a_score_is_fixed_once() -> None:
    labels = (SCORE[:, 0] > 0.5).astype(np.int64)
    assert chosen({"y": SCORE}, labels=labels)[0].options["threshold"] == 0.5
    logit = np.log(SCORE / (1 - SCORE))
    assert chosen({"y": logit}, labels=labels)[0].options["threshold"] == 0.0


@pytest.mark.parametrize(
    ("metric", "outputs", "words"),
    [
        (None, {"z": OutputChoice()}, ["'z'", "'y'"]),
        (None, {"y": OutputChoice(weight=0)}, ["no output is left"]),
        (MetricChoice("nonsense"), {}, ["there is no metric 'nonsense'", "top1"]),
        (MetricChoice("explained", {"k": 3}), {}, ["explained has no option k", "axis"]),
        (MetricChoice("top1"), {}, ["labels"]),
    ],
)
def test_what_cannot_be_measured(
    metric: MetricChoice | None, outputs: dict[str, OutputChoice], words: list[str]
) -> None:
    with pytest.raises(MetricNotApplicable) as refused:
        choose(question({"y": NUMBERS}), metric, outputs)
    for word in words:
        assert word in str(refused.value)


def test_labels_that_count_from_one() -> None:
    with pytest.raises(DatasetLabelsOutOfRange, match="subtract 1"):
        chosen({"y": LOGITS}, labels=RIGHT + 1)
    with pytest.raises(DatasetLabelsOutOfRange, match="subtract 1"):
        chosen({"y": NUMBERS}, labels=np.arange(SAMPLES) % 4 + 1)


def test_labels_of_another_shape() -> None:
    with pytest.raises(MetricNotApplicable, match=r"\[100, 3\], which fits no output: 'y' \[100, 6\]"):
        chosen({"y": LOGITS}, labels=np.ones((SAMPLES, 3), np.int64))
    (claim,) = choose(question({"y": LOGITS}, labels=np.ones((SAMPLES, 3), np.int64)), MetricChoice("agreement"), {})
    assert claim.metric == "agreement"


def test_labels_of_something_else_than_numbers() -> None:
    """An embedding with labels of more classes than it has numbers."""
    (claim,) = chosen({"y": NUMBERS}, labels=np.arange(SAMPLES))
    assert claim.metric == "explained"
