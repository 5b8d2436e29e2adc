"""What all metrics of classes have in common: nothing lost by equal outputs, much by a network that knows nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.errors import DatasetLabelsOutOfRange, MetricNotApplicable
from evaluation.metrics.measurement import DropKind
from evaluation.metrics.registry import METRICS
from tests.evaluation.classes_measuring import MAKERS, measure

EVERY = pytest.mark.parametrize("name", MAKERS)
LABELLED = pytest.mark.parametrize("labelled", [True, False], ids=["labels", "float"])
SETS = ["accuracy", "miou", "next_token", "perplexity", "auc", "ctc"]
RELATIVE_LOSS = 0.2  # what the networks below that know nothing lose at least, of 1 or of the float network's own


@EVERY
@LABELLED
def test_equal_outputs_drop_nothing(name, labelled):
    before, _, labels = MAKERS[name](60, 0.0, 0)
    measured = measure(name, before, before.copy(), labels if labelled else None)
    assert measured.drop() == pytest.approx(0.0, abs=1e-12)
    assert measured.stderr() == pytest.approx(0.0, abs=1e-12)
    assert measured.drop(DropKind.RELATIVE) == pytest.approx(0.0, abs=1e-12)


@EVERY
@LABELLED
def test_more_noise_drops_more(name, labelled):
    drops = []
    for noise in (0.1, 1.0, 4.0, 16.0):
        before, after, labels = MAKERS[name](800, noise, 1)
        drops.append(measure(name, before, after, labels if labelled else None).drop())
    assert drops == sorted(drops)
    assert drops[-1] > drops[0] + 0.1


@EVERY
@LABELLED
@pytest.mark.parametrize("null", ["others", "mean"])
def test_a_network_that_knows_nothing_drops_much(name, labelled, null):
    before, _, labels = MAKERS[name](200, 0.0, 2)
    mean = np.broadcast_to(before.mean(0), before.shape).astype(before.dtype)
    nothing = np.roll(before, 7, axis=0) if null == "others" else mean
    assert measure(name, before, nothing, labels if labelled else None).drop(DropKind.RELATIVE) > RELATIVE_LOSS


@EVERY
@LABELLED
def test_the_order_of_the_samples_does_not_matter(name, labelled):
    before, after, labels = MAKERS[name](50, 1.0, 3)
    order = np.random.default_rng(0).permutation(50)
    first = measure(name, before, after, labels if labelled else None)
    second = measure(name, before[order], after[order], labels[order] if labelled else None)
    assert second.drop() == pytest.approx(first.drop(), abs=1e-12)
    np.testing.assert_allclose(second.contributions, first.contributions[order], atol=1e-9)


@EVERY
@LABELLED
def test_weights_are_samples_taken_several_times(name, labelled):
    before, after, labels = MAKERS[name](40, 1.0, 4)
    measured = measure(name, before, after, labels if labelled else None)
    times = np.random.default_rng(1).multinomial(40, np.full(40, 1 / 40))
    rows = np.repeat(np.arange(40), times)
    repeated = measure(name, before[rows], after[rows], labels[rows] if labelled else None)
    if measured.weighted is None:
        assert repeated.drop() * len(rows) == pytest.approx(float(times @ measured.contributions), abs=1e-9)
        assert repeated.counts == measured.counts
    else:
        assert measured.weighted(times[None].astype(np.float64))[0] == pytest.approx(repeated.drop(), abs=1e-9)


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "same"])
@LABELLED
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_quantized_value_that_is_not_finite_is_the_worst(name, labelled, bad):
    before, after, labels = MAKERS[name](30, 0.3, 5)
    labels = labels if labelled else None
    intact = measure(name, before, after, labels).drop()
    after[:6] = bad
    some = measure(name, before, after, labels).drop()
    after[:] = bad
    everything = measure(name, before, after, labels)
    assert intact < some < everything.drop()
    if name == "ctc":
        assert everything.quantized_value >= 1.0  # 20 wrong tokens a sample
    else:
        worst = np.exp(30) if name == "perplexity" else float(name == "flips" and not labelled)
        assert everything.quantized_value == pytest.approx(worst)


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "same"])
@LABELLED
def test_a_float_value_that_is_not_finite_is_refused(name, labelled):
    before, after, labels = MAKERS[name](30, 0.3, 6)
    before[7].reshape(-1)[0] = np.nan
    labels = np.abs(labels) if labelled else None
    with pytest.raises(MetricNotApplicable, match=r"NaN or infinity in output 'y' for sample 7; " + name):
        measure(name, before, after, labels)


@pytest.mark.parametrize("name", [name for name in MAKERS if name not in ("same", "flips", "auc", "ctc")])
def test_positions_that_do_not_count_may_hold_anything(name):
    before, after, labels = MAKERS[name](30, 0.3, 7)
    labels[4] = -1
    expected = measure(name, before, after, labels)
    before[4], after[4] = np.nan, np.nan
    assert measure(name, before, after, labels).drop() == expected.drop()


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "same"])
def test_labels_that_are_no_classes_are_refused(name):
    before, after, labels = MAKERS[name](30, 0.3, 8)
    ignored = np.full_like(labels, -1)
    with pytest.raises(MetricNotApplicable, match=r"all \d+ are below 0"):
        measure(name, before, after, ignored)
    with pytest.raises(MetricNotApplicable, match=r"needs labels|labels have the shape"):
        measure(name, before, after, np.zeros((30, 2, 3, 4), np.int64))
    labels[3] = 255
    with pytest.raises(DatasetLabelsOutOfRange, match=r"save -1 there"):
        measure(name, before, after, labels)


def test_labels_that_count_from_one_are_told():
    before, after, _ = MAKERS["top5"](30, 0.3, 8)
    with pytest.raises(DatasetLabelsOutOfRange, match="subtract 1"):
        measure("top5", before, after, np.arange(30) % 12 + 1)


@pytest.mark.parametrize("name", SETS)
def test_the_standard_error_is_the_spread_over_data_sets(name):
    """Over 150 seeded data sets of 120 samples. The spread of 150 values is known to within 6 %; four times that."""
    estimates = []
    for seed in range(150):
        before, after, labels = MAKERS[name](120, 1.0, seed)
        measured = measure(name, before, after, labels)
        assert measured.weighted is not None
        estimates.append((measured.drop(), measured.stderr()))
    drops, errors = np.array(estimates).T
    assert np.sqrt((errors**2).mean()) == pytest.approx(drops.std(ddof=1), rel=0.24)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), name=st.sampled_from(list(MAKERS)), seed=st.integers(0, 2**32 - 1))
def test_anything_ends_in_a_measurement_or_a_reason(data, name, seed):
    generator = np.random.default_rng(seed)
    shape = tuple(data.draw(st.lists(st.integers(0, 5), max_size=5)))
    dtype = data.draw(st.sampled_from(["float16", "float32", "float64", "int64", "uint8", "bool", "complex64", "U2"]))
    scale = data.draw(st.sampled_from([1e-3, 1.0, 1e30]))
    outputs = []
    for _ in range(2):
        values = np.asarray(generator.normal(size=shape) * scale)
        if values.size and data.draw(st.booleans()) and np.dtype(dtype).kind == "f":
            values.reshape(-1)[generator.integers(0, values.size)] = data.draw(st.sampled_from([np.nan, -np.inf]))
        with np.errstate(all="ignore"):
            outputs.append(values.astype(dtype))
    axis = data.draw(st.integers(1, 5))
    labels = generator.integers(-1, data.draw(st.integers(1, 6)), (*shape[:axis], *shape[axis + 1 :]))
    options = {
        "axis": data.draw(st.none() | st.integers(-6, 6)),
        "threshold": data.draw(st.none() | st.floats()),
        "k": data.draw(st.none() | st.integers()),
        "blank": data.draw(st.none() | st.integers()),
    }
    try:
        measured = measure(name, outputs[0], outputs[1], labels if data.draw(st.booleans()) else None, **options)
    except (MetricNotApplicable, DatasetLabelsOutOfRange):
        pass
    else:
        numbers = [measured.float_value, measured.quantized_value, measured.drop(), *measured.contributions]
        assert np.isfinite(numbers).all()
        if measured.weighted is not None:
            weights = generator.multinomial(measured.samples, np.full(measured.samples, 1 / measured.samples), 9)
            assert np.isfinite(measured.weighted(weights.astype(np.float64))).all()


def test_outputs_of_another_type_are_refused():
    before, after, _ = MAKERS["accuracy"](10, 0.3, 9)
    with pytest.raises(MetricNotApplicable, match="float32 of the float network and int64"):
        measure("accuracy", before, after.astype(np.int64))


@EVERY
def test_each_is_registered_with_what_it_takes(name):
    metric = METRICS[name]
    assert metric.name == name
    assert metric.share == (name != "perplexity")
    assert metric.truth == (() if name == "same" else ("labels",))
    assert not metric.needs_truth
