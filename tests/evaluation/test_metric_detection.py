"""F1 and mean average precision against plain loops; layouts against each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.errors import DatasetError, DatasetLabelsOutOfRange, MetricNotApplicable
from evaluation.metrics import detection
from evaluation.metrics.boxes import iou_of, suppress
from evaluation.metrics.detection_layout import find_detection, layout_of
from evaluation.metrics.detections import detections_of
from evaluation.metrics.measurement import Measurement
from evaluation.metrics.pair import Pair
from evaluation.metrics.registry import metric_of
from evaluation.metrics.truth import Truth
from tests.evaluation.detection_cases import LAYOUTS, UNITS, corners_in_one, noisy, scene, sized, ssd, tensorflow, yolo8

NAMES = ("detection_f1", "detection_map")


def measure(name, before, after, truth=None, **options) -> Measurement:
    pair = Pair(tuple(before), tuple(before.values()), tuple(after.values()), Truth(truth or {}), options)
    (measured,) = metric_of(name).measure(pair)
    return measured


def area(box):
    return max(box[2] - box[0], 0) * max(box[3] - box[1], 0)


def iou(one, other):
    inner = [max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])]
    return area(inner) / (area(one) + area(other) - area(inner)) if area(one) + area(other) else 0.0


def plain(found, truth, threshold):
    """F1 and mean average precision of detections (image, box, score, class) in plain loops."""
    right = set()
    taken = set()
    for index in sorted(range(len(found)), key=lambda i: -found[i][2]):
        image, box, _, label = found[index]
        overlaps = [
            (iou(box, other), j)
            for j, (i, other, c) in enumerate(truth)
            if i == image and c == label and j not in taken and iou(box, other) >= 0.5
        ]
        if overlaps:
            right.add(index)
            taken.add(max(overlaps)[1])
    counted = [i for i in range(len(found)) if found[i][2] >= threshold]
    f1 = 2 * len(right.intersection(counted)) / (len(counted) + len(truth))
    areas = []
    for label in {c for *_, c in truth}:
        order = sorted((i for i in range(len(found)) if found[i][3] == label), key=lambda i: -found[i][2])
        boxes = sum(c == label for *_, c in truth)
        hits = np.cumsum([i in right for i in order])
        curve = [(hit / boxes, hit / (place + 1)) for place, hit in enumerate(hits)]
        value, last = 0.0, 0.0
        for recall, _ in curve:
            if recall > last:
                value += (recall - last) * max(p for r, p in curve if r >= recall)
                last = recall
        areas.append(value)
    return f1, float(np.mean(areas))


def listed(found):
    return list(
        zip(found.image.tolist(), found.corners.tolist(), found.score.tolist(), found.label.tolist(), strict=True)
    )


@pytest.mark.parametrize("seed", range(3))
def test_values_are_those_of_plain_loops(seed):
    original = scene(25, seed, hard=2.0)
    before, after = yolo8(original), yolo8(noisy(original, 1.5))
    layout = layout_of("m", before, {})
    own, others = (listed(detections_of(layout, each, 0.025, 0.6)) for each in (before, after))
    labels, boxes = original.truth["labels"], original.truth["boxes"]
    truth = [(i, boxes[i, j].tolist(), int(labels[i, j])) for i, j in zip(*np.nonzero(labels >= 0), strict=True)]
    wanted = plain(own, truth, 0.25), plain(others, truth, 0.25)
    found = [(box[0], box[1], box[3]) for box in own if box[2] >= 0.25]
    kept = plain(others, found, 0.25)
    for place, name in enumerate(NAMES):
        measured = measure(name, before, after, original.truth)
        assert measured.float_value == pytest.approx(wanted[0][place])
        assert measured.quantized_value == pytest.approx(wanted[1][place])
        assert 0.05 < measured.drop() < 0.9
        measured = measure(name, before, after)
        assert measured.float_value == 1.0
        assert measured.quantized_value == pytest.approx(kept[place])


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_copies_of_images(name):
    original = scene(20, 1, hard=2.0)
    before, after = yolo8(original), yolo8(noisy(original, 1.5))
    copies = np.random.default_rng(0).multinomial(20, np.full(20, 0.05), 4)
    drops = measure(name, before, after, original.truth, score_threshold=0.25).weighted(copies.astype(float))
    for each, drop in zip(copies, drops, strict=True):
        again = [{"output0": np.repeat(tensors["output0"], each, axis=0)} for tensors in (before, after)]
        truth = {key: np.repeat(value, each, axis=0) for key, value in original.truth.items()}
        assert drop == pytest.approx(measure(name, *again, truth, score_threshold=0.25).drop())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_recognised_and_gives_the_same_values(layout):
    original = scene()
    worse = noisy(original, 1.0)
    export = LAYOUTS[layout]
    before, after = export(original), export(worse)
    found = find_detection(before)
    assert found is not None
    chosen = [{name: each[name] for name in found.names} for each in (before, after)]
    truth = {
        "boxes": original.truth["boxes"] / UNITS.get(layout, 1),
        "labels": original.truth["labels"] + (export is ssd) * (original.truth["labels"] >= 0),
    }
    for name in NAMES:
        for data in ({}, truth):
            wanted = measure(name, yolo8(original), yolo8(worse), original.truth if data else {})
            for options in ({}, found.options):
                measured = measure(name, *chosen, data, **options)
                assert measured.float_value == pytest.approx(wanted.float_value, abs=0.02)
                assert measured.quantized_value == pytest.approx(wanted.quantized_value, abs=0.02)
            assert measure(name, before, after, data).drop() == measure(name, *chosen, data).drop()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", NAMES)
def test_equal_outputs_lose_nothing_noise_loses_more_and_a_null_network_most(name, layout):
    original, export = scene(), LAYOUTS[layout]
    before = export(original)
    assert measure(name, before, before).drop() == 0.0
    drops = [measure(name, before, export(noisy(original, noise))).drop() for noise in (0.5, 1.5, 4.0)]
    assert drops == sorted(drops)
    assert drops[-1] > 0.2
    for null in (
        {key: np.roll(value, 1, axis=0) for key, value in before.items()},
        {key: np.full_like(value, np.nan) if value.dtype.kind == "f" else value for key, value in before.items()},
    ):
        assert measure(name, before, null).drop() > 0.85
    if "detections" not in before:
        mean = {key: np.zeros_like(value) + value.mean(0).astype(value.dtype) for key, value in before.items()}
        assert measure(name, before, mean).drop() > 0.5


@pytest.mark.parametrize("name", NAMES)
def test_scores_of_zero_and_single_broken_numbers_cost(name):
    original = scene()
    before = yolo8(original)
    dead = {"output0": before["output0"] * np.array([1] * 4 + [0] * 3, np.float32)[:, None]}
    assert measure(name, before, dead).drop() == pytest.approx(1.0)
    for wrong in (np.nan, np.inf, -np.inf):
        broken = before["output0"].copy()
        broken[::2, 2] = wrong
        assert 0.2 < measure(name, before, {"output0": broken}).drop() < 0.8


def test_order_of_candidates_and_units_change_nothing():
    original = scene()
    worse = noisy(original, 1.5)
    order = np.random.default_rng(0).permutation(36)
    for name in NAMES:
        wanted = measure(name, corners_in_one(original), corners_in_one(worse)).drop()
        mixed = [{"out": corners_in_one(each)["out"][:, order]} for each in (original, worse)]
        assert measure(name, *mixed).drop() == pytest.approx(wanted)


@pytest.mark.parametrize("name", NAMES)
def test_candidates_that_another_one_covers_change_nothing(name):
    original = scene()
    before, after = ({"out": corners_in_one(each)["out"]} for each in (original, noisy(original, 1.5)))
    twice = [{"out": np.repeat(each["out"], 2, axis=1)} for each in (before, after)]
    for each in twice:
        each["out"][:, 1::2, :4] += 0.001
    truth = {**original.truth, "boxes": original.truth["boxes"] / 640}
    wanted, measured = measure(name, before, after, truth), measure(name, *twice, truth)
    assert measured.float_value == pytest.approx(wanted.float_value, abs=0.01)
    assert measured.quantized_value == pytest.approx(wanted.quantized_value, abs=0.01)


def test_the_data_tell_formats_apart_that_boxes_do_not():
    original = scene()
    worse = noisy(original, 1.0)
    upper = [
        {"o": np.concatenate([s.corners[..., :2], sized(s.corners)[..., 2:], s.scores], -1)} for s in (original, worse)
    ]
    swapped = [{"o": np.concatenate([s.corners[..., [1, 0, 3, 2]], s.scores], -1)} for s in (original, worse)]
    wanted = measure("detection_map", yolo8(original), yolo8(worse), original.truth)
    for outputs in (upper, swapped):
        assert measure("detection_map", *outputs, original.truth).drop() == pytest.approx(wanted.drop(), abs=0.01)
    stated = measure("detection_map", *swapped, original.truth, box_format="yxyx")
    assert stated.drop() == pytest.approx(wanted.drop(), abs=0.01)
    with pytest.raises(MetricNotApplicable, match="finds none"):
        measure("detection_map", *upper, {**original.truth, "boxes": original.truth["boxes"] / 640})


def test_a_count_ends_the_rows():
    original = scene()
    before = tensorflow(original)
    fewer = {**before, "num_detections": np.zeros(40, np.float32)}
    assert measure("detection_f1", before, fewer).drop() == pytest.approx(1.0)


def test_suppression_is_that_of_a_plain_loop():
    generator = np.random.default_rng(0)
    corners = np.concatenate([generator.uniform(0, 5, (200, 2)), generator.uniform(5, 9, (200, 2))], 1)
    groups = np.sort(generator.integers(0, 4, 200))
    kept = []
    for index in range(200):
        if all(groups[k] != groups[index] or iou(corners[k], corners[index]) <= 0.4 for k in kept):
            kept.append(index)
    assert suppress(groups, corners, 0.4).tolist() == kept
    wanted = [iou(one, other) for one, other in zip(corners[:50], corners[50:100], strict=True)]
    np.testing.assert_allclose(iou_of(corners[:50], corners[50:100]), wanted)


@pytest.mark.parametrize("name", NAMES)
def test_the_standard_error_is_the_spread_over_data_sets(name):
    found = []
    for seed in range(80):
        original = scene(40, seed)
        found.append(measure(name, yolo8(original), yolo8(noisy(original, 2.0, seed)), original.truth))
    spread = np.std([each.drop() for each in found], ddof=1)
    assert np.mean([each.stderr() for each in found]) == pytest.approx(spread, rel=0.3)


def classifiers_and_others():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(30, 12, 6)).astype(np.float32)
    exp = np.exp(logits)
    smooth = np.cumsum(generator.normal(size=(30, 20, 6)), 1)
    yield {"logits": logits[:, 0]}
    yield {"tags": logits}
    yield {"tags": exp / exp.sum(-1, keepdims=True)}
    yield {"tags": (exp / exp.sum(-1, keepdims=True)).transpose(0, 2, 1)}
    yield {"several": 1 / (1 + exp)}
    yield {"several": (1 / (1 + exp)).transpose(0, 2, 1)}
    yield {"series": smooth.astype(np.float32)}
    yield {"units": generator.random((30, 50, 8)).astype(np.float32)}
    yield {"units": generator.random((30, 8, 50)).astype(np.float32)}
    yield {"keypoints": generator.random((30, 17, 3)).astype(np.float32)}
    yield {"hidden": logits, "probabilities": exp[:, :, 0] / exp[:, :, 0].sum(1, keepdims=True)}
    yield {"state": logits[..., :4], "gate": 1 / (1 + exp[:, :, 0])}
    yield {"start": logits[:, :, 0], "end": logits[:, :, 1]}
    yield {"quaternion": logits[..., :4] / np.linalg.norm(logits[..., :4], axis=-1, keepdims=True), "p": 1 / (1 + exp)}
    yield {"spans": 1 / (1 + exp[..., :4]), "logits": logits}
    yield {"mask": generator.random((30, 1, 8, 8)).astype(np.float32)}
    yield {"class": generator.integers(0, 5, (30, 12))}


@pytest.mark.parametrize("outputs", list(classifiers_and_others()), ids=lambda outputs: "-".join(outputs))
def test_what_is_no_detector_is_not_taken_for_one(outputs):
    assert find_detection(outputs) is None


def test_offsets_to_anchors_are_refused():
    original = scene()
    offsets = np.random.default_rng(0).normal(size=original.corners.shape).astype(np.float32)
    outputs = {"boxes": offsets, "scores": original.scores}
    assert find_detection(outputs) is None
    with pytest.raises(MetricNotApplicable, match=r"look like offsets to anchors.*decoded"):
        measure("detection_map", outputs, outputs)


@pytest.mark.parametrize(
    ("truth", "options", "error", "text"),
    [
        ({}, {"iou": 1.5}, MetricNotApplicable, "`iou` is 1.5"),
        ({}, {"score_threshold": 0.0}, MetricNotApplicable, "`score_threshold` is 0"),
        ({}, {"score_threshold": 0.99999}, MetricNotApplicable, "detects nothing above a score of"),
        ({}, {"boxes": "other"}, MetricNotApplicable, "`boxes` is 'other'; expected one of 'output0'"),
        ({}, {"box_format": "corners"}, MetricNotApplicable, "expected one of xyxy"),
        ({}, {"axis": 0}, MetricNotApplicable, "`axis` is 0"),
        ({"boxes": np.zeros((40, 4))}, {}, MetricNotApplicable, r"expected \[40, n, 4\]"),
        ({"boxes": np.zeros((40, 2, 4))}, {}, MetricNotApplicable, "boxes and no labels"),
        ({"boxes": np.zeros((40, 2, 4)), "labels": np.zeros((40, 3))}, {}, MetricNotApplicable, r"\[40, 2\]"),
        ({"boxes": np.zeros((40, 2, 4)), "labels": np.zeros((40, 2))}, {}, MetricNotApplicable, "have no box"),
        ({"boxes": np.zeros((40, 2, 4)), "labels": np.full((40, 2), 3)}, {}, DatasetLabelsOutOfRange, "up to 3"),
    ],
)
def test_what_cannot_be_measured_is_refused(truth, options, error, text):
    before = yolo8(scene())
    with pytest.raises(error, match=text):
        measure("detection_map", before, before, truth, **options)


def test_a_float_network_that_is_not_finite_is_named():
    before = yolo8(scene())
    before["output0"][3, 1, 5] = np.nan
    with pytest.raises(MetricNotApplicable, match="NaN or infinity in output 'output0' for sample 3"):
        measure("detection_map", before, before)


@pytest.mark.timeout(60)  # it takes two seconds
def test_many_images_with_many_candidates_take_seconds():
    generator = np.random.default_rng(0)
    samples, anchors = 100, 2100
    centres = generator.uniform(30, 610, (1, 2, anchors)) + generator.normal(0, 3, (samples, 2, anchors))
    sizes = generator.uniform(20, 60, (samples, 2, anchors))
    scores = (generator.random((samples, 20, anchors)) ** 800).astype(np.float32)
    before = {"output0": np.concatenate([centres, sizes, scores], 1).astype(np.float32)}
    after = {"output0": (before["output0"] * generator.normal(1, 0.02, (samples, 24, anchors))).astype(np.float32)}
    measured = measure("detection_map", before, after)
    measured.weighted(generator.multinomial(samples, np.full(samples, 1 / samples), 500).astype(float))
    assert 0 < measured.drop() < 1


@pytest.mark.parametrize("name", NAMES)
def test_matching_that_forgets_what_is_taken_is_noticed(name, monkeypatch):
    """A network that says everything twice must pay for it."""
    original = scene()
    twice = {"d": np.repeat(LAYOUTS["rows"](original)["detections"], 2, axis=1)}
    once = {"d": np.concatenate([LAYOUTS["rows"](original)["detections"], np.full((40, 20, 6), np.nan, np.float32)], 1)}
    assert measure(name, once, twice).drop() > 0.1

    def forgetful(found, truth, iou):
        return np.array([detection_matches(found.take(np.array([i])), truth, iou)[0] for i in range(len(found))])

    detection_matches = detection.matches
    monkeypatch.setattr(detection, "matches", forgetful)
    assert measure(name, once, twice).drop() < 0


VALUES = st.sampled_from([0.0, 0.5, 1.0, -1.0, 1e30, 1e300, np.nan, np.inf, -np.inf])


@settings(max_examples=200, deadline=None)
@given(
    layout=st.sampled_from([*LAYOUTS, "noise", "unit"]),
    name=st.sampled_from(NAMES),
    shapes=st.lists(
        st.sampled_from([(), (5,), (5, 4), (5, 6), (5, 8, 4), (5, 4, 8), (5, 8), (5, 8, 6), (5, 0, 4), (5, 1, 4, 1)]),
        min_size=1,
        max_size=3,
    ),
    dtype=st.sampled_from([np.float16, np.float32, np.float64, np.int64, np.bool_]),
    special=st.lists(VALUES, max_size=4),
    in_float=st.booleans(),
    options=st.fixed_dictionaries(
        {},
        optional={
            "axis": st.sampled_from([None, 0, 1, 2, 7]),
            "boxes": st.sampled_from([None, "a", "b", "boxes"]),
            "scores": st.sampled_from([None, "a", "b", "output0"]),
            "classes": st.sampled_from([None, "b", "c", "dets"]),
            "count": st.sampled_from([None, "b", "c"]),
            "box_format": st.sampled_from(["xyxy", "cxcywh", "yxyx", "xywh", "odd"]),
            "activation": st.sampled_from(["none", "sigmoid", "softmax"]),
            "background": st.sampled_from(["none", "first", "last"]),
            "objectness": st.booleans(),
            "iou": st.sampled_from([0.0, 0.3, 1.0]),
            "score_threshold": st.sampled_from([1e-9, 0.1, 2.0]),
        },
    ),
    truth=st.booleans(),
    seed=st.integers(0, 99),
)
def test_anything_ends_in_a_measurement_or_a_refusal(
    layout, name, shapes, dtype, special, in_float, options, truth, seed
):
    generator = np.random.default_rng(seed)
    arrays = {}
    if layout in LAYOUTS:
        original = scene(5, seed)
        before, after = LAYOUTS[layout](original), LAYOUTS[layout](noisy(original, 2.0))
        arrays = original.truth if truth else {}
    else:
        draw = generator.random if layout == "unit" else generator.standard_normal
        before = {key: np.array(draw(shape)).astype(dtype) for key, shape in zip("abc", shapes, strict=False)}
        after = {key: np.array(draw(value.shape)).astype(dtype) for key, value in before.items()}
    broken = before if in_float else after
    for value in broken.values():
        if value.size and value.dtype.kind == "f":
            places = generator.integers(0, value.size, len(special))
            with np.errstate(all="ignore"):
                value.flat[places] = np.array(special).astype(value.dtype)
    find_detection(before)
    try:
        measured = measure(name, before, after, arrays, **options)
    except (MetricNotApplicable, DatasetError):
        return
    assert np.isfinite(measured.contributions).all()
    assert np.isfinite([measured.float_value, measured.quantized_value]).all()
    samples = measured.samples
    assert np.isfinite(measured.weighted(generator.multinomial(5, np.full(samples, 1 / samples), 7) * 1.0)).all()
