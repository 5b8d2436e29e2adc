"""A metric of one's own: what a graph reads, what its numbers mean, and every graph that is none."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from evaluation.certifying import Terms, certify
from evaluation.choice import MetricChoice, OutputChoice, Question, choose
from evaluation.errors import MetricGraphInvalid, MetricNotApplicable
from evaluation.metrics.claim import Claim, Measured, measure
from evaluation.metrics.measurement import DropKind, Measurement
from evaluation.metrics.own import OWN, OwnMetric
from evaluation.metrics.truth import Truth
from evaluation.nulls import blind_to
from evaluation.outputs import facts_of
from tests.evaluation.own_graphs import LIMITS, N_SCORES, READABLE, accuracy, distance, graph, mean_of, metric

SAMPLES = 70  # more than run at once
FLOAT, DOUBLE, INT64, BOOL = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.BOOL


@pytest.fixture
def scores() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((SAMPLES, 4)).astype(np.float32)


def measured(own: OwnMetric, before: np.ndarray, after: np.ndarray, truth: Truth | None = None, **options: object):
    claim = Claim(OWN, own.outputs, None, options, own=own)
    (part,) = claim.measure({"scores": before}, {"scores": after}, truth or Truth())
    return part


def test_it_is_the_mean_of_both_networks_and_their_paired_difference(scores):
    labels = np.arange(SAMPLES) % 4
    after = scores[:, [0, 1, 3, 2]]
    part = measured(metric(accuracy()), scores, after, Truth({"labels": labels}))
    right = [(output.argmax(1) == labels).astype(float) for output in (scores, after)]
    assert (part.float_value, part.quantized_value) == (right[0].mean(), right[1].mean())
    np.testing.assert_array_equal(part.contributions, right[0] - right[1])
    assert part.drop() == pytest.approx(right[0].mean() - right[1].mean())
    assert part.drop(DropKind.RELATIVE) == pytest.approx(part.drop() / right[0].mean())
    assert part.bounds is None  # nothing is stopped early


def test_lower_is_better_turns_the_sign_and_the_float_network_is_read_by_reference(scores):
    own = metric(distance())
    assert own.outputs == ("scores",)
    after = scores + np.float32(0.5)
    part = measured(own, scores, after, higher_is_better=False)
    assert (part.float_value, part.quantized_value) == (0, pytest.approx(0.5))
    assert part.drop() == pytest.approx(0.5)
    assert measured(own, scores, after).drop() == pytest.approx(-0.5)


def test_of_null_is_the_share_of_what_the_mean_outputs_lose(scores):
    own = metric(distance())
    claim = Claim(OWN, own.outputs, None, {"higher_is_better": False}, own=own)
    after = np.broadcast_to(scores.mean(0), scores.shape)
    everything = measure([claim], {"scores": scores}, {"scores": after}, Truth(), DropKind.OF_NULL)
    assert everything.drop(DropKind.OF_NULL, 0.1) == pytest.approx(1, abs=1e-6)


def test_it_reads_outputs_before_inputs_before_arrays_and_initializers_are_constants(scores):
    image = np.arange(SAMPLES, dtype=np.float32)[:, None]
    weight = np.full(SAMPLES, 3.0)
    nodes = [
        helper.make_node("ReduceSum", ["image", "axis"], ["i"], keepdims=0),
        helper.make_node("ReduceSum", ["scores", "axis"], ["s"], keepdims=0),
        helper.make_node("Mul", ["i", "weight"], ["w"]),
        helper.make_node("Add", ["s", "w"], ["score"]),
    ]
    inputs = [("image", FLOAT, ["N", 1]), N_SCORES, ("weight", FLOAT, ["N"]), ("axis", INT64, [1])]
    own = metric(graph(nodes, inputs, constants={"axis": np.array([1])}))
    assert (own.outputs, own.network_inputs, own.arrays) == (("scores",), ("image",), ("weight",))
    truth = Truth({"weight": weight}, {"image": image})
    numbers = own.numbers({"scores": scores}, {"scores": scores}, truth)
    np.testing.assert_allclose(numbers, scores.sum(1) + 3 * image[:, 0], rtol=1e-5)
    order = np.array([5, 3, 1])  # parts of the truth bring both
    part = own.numbers({"scores": scores[order]}, {"scores": scores[order]}, truth.take(order))
    np.testing.assert_allclose(part, numbers[order], rtol=1e-6)


@pytest.mark.parametrize("shape", [[], [1], [1, 1]])
def test_a_batch_of_one_gives_a_single_number(scores, shape):
    nodes = [helper.make_node("ReduceMax", ["scores"], ["top"], keepdims=0)]
    nodes.append(helper.make_node("Reshape", ["top", "shape"], ["score"]))
    data = graph(nodes, [("scores", FLOAT, [1, 4])], ("score", FLOAT, shape), {"shape": np.array(shape, np.int64)})
    numbers = metric(data).numbers({"scores": scores}, {"scores": scores}, Truth())
    np.testing.assert_array_equal(numbers, scores.max(1))


def test_a_fixed_batch_is_filled_up(scores):
    nodes = [helper.make_node("ReduceMax", ["scores", "axis"], ["score"], keepdims=0)]
    own = metric(graph(nodes, [("scores", FLOAT, [16, 4])], ("score", FLOAT, [16]), {"axis": np.array([1])}))
    own.require_samples_apart({"scores": scores}, Truth())
    np.testing.assert_array_equal(own.numbers({"scores": scores}, {"scores": scores}, Truth()), scores.max(1))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("higher", [True, False])
def test_what_is_not_finite_counts_as_the_worst_that_was_seen(scores, bad, higher):
    own, after = metric(mean_of("scores")), scores.copy()
    after[3] = bad
    part = measured(own, scores, after, higher_is_better=higher)
    means = scores.mean(1, dtype=np.float64)
    worst = means.min() if higher else means.max()
    assert part.contributions[3] == pytest.approx(means[3] - worst if higher else worst - means[3], rel=1e-5)
    # all of it: at least as bad as every network that knows nothing
    every = measured(own, scores, np.full_like(scores, bad), higher_is_better=higher)
    assert np.isfinite(every.drop())
    assert every.drop() >= measured(own, scores, np.roll(scores, 1, axis=0), higher_is_better=higher).drop()


def test_a_null_network_can_be_the_worst(scores):
    own = metric(distance())  # the float network is at 0 everywhere, and nothing of the quantized is finite
    part = measured(own, scores, np.full_like(scores, np.nan), higher_is_better=False)
    assert (
        part.drop()
        > measured(own, scores, np.broadcast_to(scores.mean(0), scores.shape), higher_is_better=False).drop()
    )


def test_a_float_network_without_a_number_is_named_by_sample(scores):
    scores[7] = np.nan
    with pytest.raises(MetricNotApplicable, match="nan for sample 7 of the float network"):
        measured(metric(mean_of("scores")), scores, scores)


def test_a_number_beyond_all_reason_is_refused(scores):
    nodes = [
        helper.make_node("Cast", ["scores"], ["wide"], to=DOUBLE),
        helper.make_node("ReduceSumSquare", ["wide", "axis"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "huge"], ["score"]),
    ]
    constants = {"axis": np.array([1]), "huge": np.array(1e300)}
    own = metric(graph(nodes, [N_SCORES], ("score", DOUBLE, ["N"]), constants))
    with pytest.raises(MetricNotApplicable, match="finite numbers up to 1e100"):
        measured(own, scores, scores)


@pytest.mark.parametrize(
    ("labels", "kind"),
    [(np.int64, INT64), (np.int64, TensorProto.INT32), (np.int64, FLOAT), (np.float64, FLOAT), (bool, FLOAT)],
)
def test_types_are_converted_where_nothing_is_lost(scores, labels, kind):
    truth = Truth({"labels": (np.arange(SAMPLES) % 2).astype(labels)})
    numbers = metric(accuracy(kind=kind)).numbers({"scores": scores}, {"scores": scores}, truth)
    np.testing.assert_array_equal(numbers, scores.argmax(1) == np.arange(SAMPLES) % 2)


@pytest.mark.parametrize(
    ("array", "kind", "words"),
    [
        (np.full(SAMPLES, 2**40), TensorProto.INT32, "takes int32, and what it reads holds int64"),
        (np.full(SAMPLES, 2**62 + 1), FLOAT, "takes float32, and what it reads holds int64"),
        (np.full(SAMPLES, -1), TensorProto.UINT8, "takes uint8"),
        (np.zeros(SAMPLES), INT64, "takes int64, and what it reads holds float64"),
        (np.zeros(SAMPLES, np.int64), BOOL, "takes bool"),
        (np.zeros((SAMPLES, 2), np.int64), INT64, r"takes the shape \[N\], and what it reads has \[N, 2\]"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(scores, array, kind, words):
    with pytest.raises(MetricGraphInvalid, match=words):
        metric(accuracy(kind=kind)).numbers({"scores": scores}, {"scores": scores}, Truth({"labels": array}))


def mixing(kind: str) -> bytes:
    """Graphs whose number of a sample depends on the samples beside it."""
    axis = {"axis": np.array([1]), "samples": np.array([0])}
    mean = helper.make_node("ReduceMean", ["scores", "axis"], ["mean"], keepdims=0)
    tail = {
        "mean": [helper.make_node("ReduceMean", ["mean", "samples"], ["of"], keepdims=1),
                 helper.make_node("Sub", ["mean", "of"], ["score"])],
        "running": [helper.make_node("CumSum", ["mean", "zero"], ["score"])],
        "first": [helper.make_node("Gather", ["mean", "samples"], ["of"]),
                  helper.make_node("Add", ["mean", "of"], ["score"])],
        "neighbour": [helper.make_node("Reshape", ["scores", "flat"], ["f"]),
                      helper.make_node("Slice", ["f", "one", "end"], ["cut"]),
                      helper.make_node("Concat", ["cut", "last"], ["shifted"], axis=0),
                      helper.make_node("Reshape", ["shifted", "rows"], ["r"]),
                      helper.make_node("ReduceMean", ["r", "axis"], ["score"], keepdims=0)],
    }[kind]  # fmt: skip
    constants = axis | {
        "zero": np.array(0), "flat": np.array([-1]), "rows": np.array([-1, 4]), "one": np.array([4]),
        "end": np.array([2**31]), "last": np.zeros(4, np.float32),
    }  # fmt: skip
    return graph([mean, *tail], [N_SCORES], constants=constants)


@pytest.mark.parametrize("kind", ["mean", "running", "first", "neighbour"])
def test_a_graph_that_mixes_samples_is_found_out(scores, kind):
    with pytest.raises(MetricGraphInvalid, match="mixes samples: sample"):
        metric(mixing(kind)).require_samples_apart({"scores": scores}, Truth())
    with pytest.raises(MetricGraphInvalid, match="mixes samples: sample"):
        choose(question(scores, Truth()), MetricChoice(OWN), {}, metric(mixing(kind)))


def test_a_mean_over_a_fixed_batch_is_found_out(scores):
    nodes = [
        helper.make_node("ReduceMean", ["scores"], ["all"], keepdims=0),
        helper.make_node("Expand", ["all", "shape"], ["score"]),
    ]
    own = metric(graph(nodes, [("scores", FLOAT, [8, 4])], ("score", FLOAT, [8]), {"shape": np.array([8])}))
    with pytest.raises(MetricGraphInvalid, match="mixes samples"):
        own.require_samples_apart({"scores": scores}, Truth())


@pytest.mark.parametrize("data", [accuracy(), mean_of("scores"), distance()])
def test_honest_graphs_keep_samples_apart(scores, data):
    metric(data).require_samples_apart({"scores": scores}, Truth({"labels": np.zeros(SAMPLES, np.int64)}))


IDENTITY = helper.make_node("Identity", ["scores"], ["score"])
NO_METRIC = {
    "nothing": (b"", "is empty"),
    "no ONNX": (b"PK\x03\x04 and more", "zip archive"),
    "unknown input": (mean_of("logits"), "input 'logits' .* the outputs 'scores', 'boxes', .*'reference.scores'"),
    "unknown reference": (mean_of("reference.logits"), "'reference.logits' of the metric graph is nothing"),
    "no output is read": (mean_of("weight"), "no output of the network that is measured"),
    "the float network alone": (mean_of("reference.scores"), "no output of the network that is measured"),
    "two outputs": (
        graph([IDENTITY, helper.make_node("Neg", ["scores"], ["b"])], [N_SCORES], more_outputs=[("b", FLOAT, [])]),
        "has 2 outputs",
    ),
    "integers": (
        graph([helper.make_node("ArgMax", ["scores"], ["top"], axis=1)], [N_SCORES], ("top", INT64, ["N", 1])),
        "holds int64; expected float",
    ),
    "another operator set": (
        graph([helper.make_node("Own", ["scores"], ["score"], domain="mine")], [N_SCORES], domain="mine"),
        "operators that neither ONNX, nor ONNX Runtime",
    ),
    "random": (
        graph([helper.make_node("RandomNormalLike", ["scores"], ["score"])], [N_SCORES]), "draws random numbers",
    ),
    "a scalar input": (
        graph([helper.make_node("Mul", ["scores", "weight"], ["score"])], [N_SCORES, ("weight", FLOAT, [])]),
        "'weight' of the metric graph has no axis",
    ),
    "two batches": (
        graph([IDENTITY], [("scores", FLOAT, [2, 4]), ("boxes", FLOAT, [3, 4])]), "fix different batches",
    ),
    "an input without a shape": (graph([IDENTITY], [("scores", FLOAT, None)]), "shape"),  # type: ignore[list-item]
    "a broken graph": (graph([helper.make_node("Relu", ["nowhere"], ["score"])], [N_SCORES]), "metric graph"),
}  # fmt: skip


@pytest.mark.parametrize("case", NO_METRIC)
def test_what_is_no_metric_is_refused(case):
    data, words = NO_METRIC[case]
    with pytest.raises(MetricGraphInvalid, match=words):
        metric(data)


def test_data_outside_of_the_file_is_refused():
    import onnx

    model = onnx.ModelProto.FromString(mean_of("scores"))
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL
    model.graph.initializer[0].external_data.add(key="location", value="/etc/passwd")
    with pytest.raises(MetricGraphInvalid, match="outside the model file"):
        metric(model.SerializeToString())


NOT_ONE_NUMBER = {
    "all scores": (graph([IDENTITY], [N_SCORES], ("score", FLOAT, ["N", 4])), r"the shape \[64, 4\] for 64 samples"),
    "one for all": (
        graph([helper.make_node("ReduceMean", ["scores"], ["score"], keepdims=0)], [N_SCORES], ("score", FLOAT, [])),
        r"the shape \[\] for 64 samples",
    ),
    "as many as classes": (
        mean_of("scores", axis=0), r"\[4\] for 64",
    ),
    "fails": (
        graph([helper.make_node("Reshape", ["scores", "s"], ["score"])], [N_SCORES], ("score", FLOAT, ["N"]),
              {"s": np.array([7])}), "fails on 64 samples",
    ),
    "other classes": (
        graph([helper.make_node("ReduceMean", ["scores", "a"], ["score"], keepdims=0)], [("scores", FLOAT, ["N", 5])],
              constants={"a": np.array([1])}), r"takes the shape \[N, 5\], and what it reads has \[N, 4\]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", NOT_ONE_NUMBER)
def test_what_gives_not_one_number_for_each_sample_is_refused(scores, case):
    data, words = NOT_ONE_NUMBER[case]
    with pytest.raises(MetricGraphInvalid, match=words):
        metric(data).numbers({"scores": scores}, {"scores": scores}, Truth())


def test_a_file_with_any_byte_broken_is_refused_or_works(scores):
    whole, generator = accuracy(), np.random.default_rng(0)
    truth = Truth({"labels": np.zeros(SAMPLES, np.int64)})
    refused = 0
    for _ in range(150):
        broken = bytearray(whole)
        for place in generator.integers(0, len(whole), generator.integers(1, 4)):
            broken[place] = generator.integers(256)
        try:
            own = OwnMetric.of(
                bytes(broken[: generator.integers(len(whole) // 2, len(whole) + 1)]), READABLE, LIMITS, 1
            )
            own.require_samples_apart({"scores": scores, "boxes": scores}, truth)
            measured(own, scores, scores, truth)
        except (MetricGraphInvalid, MetricNotApplicable):
            refused += 1
    assert refused > 100


def test_samples_that_all_stay_as_they_are_do_not_seem_to_exclude_others(scores):
    labels = Truth({"labels": scores.argmax(1)})  # every number is 1, of both networks
    part = measured(metric(accuracy()), scores, scores, labels)
    assert part.extent == 1  # what knows nothing has some wrong
    certificate = certify(Measured.of(part), Terms(0.05, DropKind.ABSOLUTE, None))
    rare = 1 - 0.025 ** (1 / SAMPLES)
    assert (certificate.low, certificate.drop, certificate.high) == pytest.approx((-rare, 0, rare))
    assert certificate.resolution == pytest.approx(rare)


def question(scores: np.ndarray, truth: Truth) -> Question:
    outputs = {"scores": scores, "boxes": scores[:, ::-1].copy()}
    return Question(facts_of(outputs, truth, {}), outputs, truth, DropKind.ABSOLUTE, 0.05)


def test_its_claim_sees_what_it_reads_and_is_blind_to_the_rest(scores):
    truth = Truth({"labels": scores.argmax(1)})
    asked = question(scores, truth)
    (claim,) = choose(asked, MetricChoice(OWN, {"higher_is_better": True}), {}, metric(accuracy()))
    assert (claim.metric, claim.outputs, dict(claim.options)) == (OWN, ("scores",), {"higher_is_better": True})
    assert asked.sees(claim)
    blind = blind_to([claim], asked.facts, asked.outputs, truth, DropKind.ABSOLUTE, 0.05)
    assert [each.null for each in blind] == ["output boxes"]
    # a document holds no graph
    document = claim.document()
    assert Claim.of_document(document) == claim
    assert "own" not in document


def test_a_graph_that_sees_nothing_is_said_to_be_blind(scores):
    nodes = [helper.make_node("Mul", ["scores", "zero"], ["none"])]
    nodes.append(helper.make_node("ReduceMean", ["none", "axis"], ["score"], keepdims=0))
    own = metric(graph(nodes, [N_SCORES], constants={"zero": np.float32(0), "axis": np.array([1])}))
    asked = question(scores, Truth())
    claims = choose(asked, MetricChoice(OWN), {}, own)
    blind = {each.null for each in blind_to(claims, asked.facts, asked.outputs, Truth(), DropKind.ABSOLUTE, 0.05)}
    assert {"the outputs of other samples", "the mean outputs", "output scores"} <= blind


def test_outputs_can_have_metrics_of_their_own_beside_it(scores):
    asked = question(scores, Truth({"labels": scores.argmax(1)}))
    outputs = {"boxes": OutputChoice(1.0, MetricChoice("explained"), 0.1)}
    claims = choose(asked, MetricChoice(OWN), outputs, metric(accuracy()))
    assert [(claim.metric, claim.outputs) for claim in claims] == [("explained", ("boxes",)), (OWN, ("scores",))]
    with pytest.raises(MetricNotApplicable, match=r"outputs\.scores\.max_drop is a budget of an output alone"):
        choose(asked, MetricChoice(OWN), {"scores": OutputChoice(1.0, None, 0.1)}, metric(accuracy()))


def test_measurements_of_parts_can_be_joined(scores):
    own = metric(mean_of("scores"))
    parts = [measured(own, scores[rows], scores[rows] + 1) for rows in (slice(0, 30), slice(30, None))]
    assert Measurement.joined(parts).drop() == pytest.approx(-1, rel=1e-5)
