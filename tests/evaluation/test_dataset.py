"""Reading samples: what is matched, converted, refused, with which code and remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.dataset import Dataset, check_labels, read_dataset, synthesize
from evaluation.errors import (
    DatasetError,
    DatasetInvalid,
    DatasetLabelsOutOfRange,
    DatasetNotFinite,
    DatasetSampleCounts,
    DatasetShapeMismatch,
    DatasetTooFewSamples,
    DatasetTooLarge,
    DatasetWrongNames,
)
from evaluation.metrics.truth import Truth
from evaluation.splits import split
from network.errors import ShapesNotFixed
from network.tensor_spec import TensorSpec

MOST = 1 << 30
IMAGE = (TensorSpec("image", "float32", (None, 3, 4)),)
TEXT = (TensorSpec("ids", "int64", (None, None)), TensorSpec("mask", "bool", (None, None)))
N = 60


def save(tmp_path: Path, **arrays: Any) -> Path:
    path = tmp_path / "data.npz"
    np.savez(path, **arrays)
    return path


def refusal(path: Path, inputs: tuple[TensorSpec, ...], error: type[DatasetError], max_bytes: int = MOST) -> str:
    with pytest.raises(error) as caught:
        read_dataset(path, inputs, max_bytes)
    assert caught.type is error
    return str(caught.value)


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((N, 3, 4)).astype(np.float32)


def test_one_input_takes_its_array_under_any_name(tmp_path: Path, images: np.ndarray) -> None:
    dataset = read_dataset(save(tmp_path, pictures=images, labels=np.arange(N)), IMAGE, MOST)
    np.testing.assert_array_equal(dataset.inputs["image"], images)
    assert dataset.labels is not None
    assert dataset.labels.dtype == np.int64
    np.testing.assert_array_equal(dataset.labels, np.arange(N))
    assert dataset.truth.targets() is None
    assert dataset.samples == N
    assert dataset.inputs["image"].shape == (N, 3, 4)


def test_compressed_and_fortran_ordered_and_foreign_byte_order_arrays_are_read(
    tmp_path: Path, images: np.ndarray
) -> None:
    path = tmp_path / "data.npz"
    np.savez_compressed(path, image=np.asfortranarray(images.astype(">f8")))
    array = read_dataset(path, IMAGE, MOST).inputs["image"]
    assert array.dtype == np.dtype("float32")
    assert array.flags.c_contiguous
    np.testing.assert_array_equal(array, images)


def test_several_inputs_go_by_name_and_the_data_fix_open_axes(tmp_path: Path) -> None:
    ids, mask = np.ones((N, 7), np.int32), np.ones((N, 7), bool)
    dataset = read_dataset(save(tmp_path, mask=mask, ids=ids), TEXT, MOST)
    assert dataset.inputs["ids"].dtype == np.int64
    assert dataset.inputs["mask"].dtype == np.bool_
    assert {name: array.shape for name, array in dataset.inputs.items()} == {"ids": (N, 7), "mask": (N, 7)}


def test_an_input_may_be_called_labels(tmp_path: Path) -> None:
    spec = (TensorSpec("labels", "float32", (None, 2)),)
    dataset = read_dataset(save(tmp_path, labels=np.ones((N, 2))), spec, MOST)
    assert list(dataset.inputs) == ["labels"]
    assert dataset.labels is None


def test_wrong_names_say_what_is_missing_and_what_is_too_much(tmp_path: Path) -> None:
    text = refusal(save(tmp_path, ids=np.ones((N, 7), int), maks=np.ones((N, 7), bool)), TEXT, DatasetWrongNames)
    assert "missing: 'mask'" in text
    assert "not an input: 'maks'" in text
    refusal(save(tmp_path, labels=np.arange(N)), IMAGE, DatasetWrongNames)


def test_what_is_right_may_be_said_for_one_output_alone(tmp_path: Path, images: np.ndarray) -> None:
    arrays = {"image": images, "labels": np.arange(N), "targets.pose": np.ones((N, 3)), "weights": np.ones(N)}
    truth = read_dataset(save(tmp_path, **arrays), IMAGE, MOST, extra=["weights"]).truth
    np.testing.assert_array_equal(truth.labels("class"), np.arange(N))
    assert truth.targets("class") is None
    assert truth.targets("pose").shape == (N, 3)
    np.testing.assert_array_equal(truth.take(np.array([2, 1])).labels(), [2, 1])
    assert truth.arrays["weights"].dtype == np.float64
    refusal(save(tmp_path, **arrays), IMAGE, DatasetWrongNames)


def test_boxes_have_four_coordinates(tmp_path: Path, images: np.ndarray) -> None:
    boxes = np.ones((N, 5, 4))
    assert read_dataset(save(tmp_path, image=images, boxes=boxes), IMAGE, MOST).truth.boxes().shape == (N, 5, 4)
    assert "5, 3" in refusal(save(tmp_path, image=images, boxes=boxes[:, :, :3]), IMAGE, DatasetShapeMismatch)


def test_sample_counts_must_agree(tmp_path: Path, images: np.ndarray) -> None:
    text = refusal(save(tmp_path, image=images, labels=np.arange(N - 1)), IMAGE, DatasetSampleCounts)
    assert f"'image': {N}" in text
    assert f"'labels': {N - 1}" in text


@pytest.mark.parametrize("shape", [(N, 4, 3), (N, 12), (N, 3, 4, 1), (N, 3, 0), (N,), ()])
def test_shapes_must_fit(tmp_path: Path, shape: tuple[int, ...]) -> None:
    text = refusal(save(tmp_path, image=np.zeros(shape, np.float32)), IMAGE, DatasetShapeMismatch)
    assert "[any, 3, 4]" in text
    assert str(list(shape)) in text


def test_a_batch_size_that_the_graph_fixes_does_not_limit_the_samples(tmp_path: Path, images: np.ndarray) -> None:
    spec = (TensorSpec("image", "float32", (8, 3, 4)),)
    assert read_dataset(save(tmp_path, image=images), spec, MOST).samples == N


def test_too_few_samples(tmp_path: Path, images: np.ndarray) -> None:
    text = refusal(save(tmp_path, image=images[:47]), IMAGE, DatasetTooFewSamples)
    assert "47 samples, at least 48" in text
    assert read_dataset(save(tmp_path, image=images[:48]), IMAGE, MOST).samples == 48
    refusal(save(tmp_path, image=images[:0]), IMAGE, DatasetSampleCounts)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_taken_and_known(tmp_path: Path, images: np.ndarray, bad: float) -> None:
    images[17, 2, 1] = bad
    images[40, 0, 0] = np.nan
    for dtype in (np.float32, np.float64):  # in what the input takes, and in what is converted to it
        dataset = read_dataset(save(tmp_path, image=images.astype(dtype)), IMAGE, MOST)
        assert dataset.not_finite().tolist() == [17, 40]
        assert dataset.first_not_finite(17) == f"image[17, 2, 1] is {bad}"
    with pytest.raises(ValueError, match="sample 3 are finite"):
        dataset.first_not_finite(3)


def test_samples_of_several_lengths_that_are_not_finite_are_known() -> None:
    array = np.empty(3, object)
    array[:] = [np.ones(2, np.float32), np.array([1, 2, np.inf], np.float32), np.ones(4, np.float32)]
    dataset = Dataset({"x": array})
    assert dataset.not_finite().tolist() == [1]
    assert dataset.first_not_finite(1) == "x[1, 2] is inf"


def test_floats_that_overflow_the_input_are_not_finite_there(tmp_path: Path, images: np.ndarray) -> None:
    large = images.astype(np.float64)
    large[3, 0, 0] = 1e300
    text = refusal(save(tmp_path, image=large), IMAGE, DatasetNotFinite)
    assert "image[3, 0, 0] is inf in float32" in text


def test_integers_for_a_float_input_are_refused_with_the_reason(tmp_path: Path) -> None:
    text = refusal(save(tmp_path, image=np.zeros((N, 3, 4), np.uint8)), IMAGE, DatasetInvalid)
    assert "uint8" in text
    assert "float32" in text
    refusal(save(tmp_path, ids=np.ones((N, 7)), mask=np.ones((N, 7), bool)), TEXT, DatasetInvalid)


def test_integers_must_fit(tmp_path: Path) -> None:
    spec = (TensorSpec("ids", "int32", (None,)),)
    wide = np.full(N, 2**40)
    assert "do not fit int32" in refusal(save(tmp_path, ids=wide), spec, DatasetInvalid)


@pytest.mark.parametrize("array", [np.zeros(N, "U3"), np.zeros(N, complex), np.zeros(N, "M8[s]"), np.zeros(N, "f4,i4")])
def test_only_numbers_are_read(tmp_path: Path, array: np.ndarray) -> None:
    spec = (TensorSpec("x", "float32", (None,)),)
    assert "expected floats" in refusal(save(tmp_path, x=array), spec, DatasetInvalid)


def test_labels_are_whole_numbers(tmp_path: Path, images: np.ndarray) -> None:
    dataset = read_dataset(save(tmp_path, image=images, labels=np.arange(N, dtype=np.float64)), IMAGE, MOST)
    assert dataset.labels is not None
    assert dataset.labels.dtype == np.int64
    half = np.arange(N) + 0.5
    assert "targets" in refusal(save(tmp_path, image=images, labels=half), IMAGE, DatasetInvalid)
    refusal(save(tmp_path, image=images, labels=np.array(3)), IMAGE, DatasetSampleCounts)
    refusal(save(tmp_path, image=images, labels=np.full(N, np.nan)), IMAGE, DatasetNotFinite)


def test_targets_are_finite_floats(tmp_path: Path, images: np.ndarray) -> None:
    dataset = read_dataset(save(tmp_path, image=images, targets=np.ones((N, 2))), IMAGE, MOST)
    targets = dataset.truth.arrays["targets"]
    assert targets.dtype == np.float32
    text = refusal(save(tmp_path, image=images, targets=np.full((N, 2), np.inf)), IMAGE, DatasetNotFinite)
    assert "targets[0, 0]" in text


@pytest.mark.parametrize(
    ("labels", "hint"),
    [
        ([0, 1, 10], "labels[2] is 10"),
        ([1, 2, 10], "count from 1"),
        ([-1, -100], "all labels are below 0"),
    ],
)
def test_labels_out_of_range(labels: list[int], hint: str) -> None:
    with pytest.raises(DatasetLabelsOutOfRange) as caught:
        check_labels(np.array(labels), 10)
    assert hint in str(caught.value)
    assert "0 to 9" in str(caught.value)
    check_labels(np.array([0, 9, -1]), 10)


def test_too_many_bytes_are_refused_before_they_are_read(tmp_path: Path, images: np.ndarray) -> None:
    text = refusal(save(tmp_path, image=images), IMAGE, DatasetTooLarge, 1000)
    assert "1,000 are allowed" in text


def test_a_dataset_takes_samples_in_order(images: np.ndarray) -> None:
    dataset = Dataset({"image": images}, Truth({"labels": np.arange(N)}))
    part = dataset.take(np.array([5, 3]))
    np.testing.assert_array_equal(part.inputs["image"], images[[5, 3]])
    np.testing.assert_array_equal(part.labels, [5, 3])
    with pytest.raises(DatasetSampleCounts):
        Dataset({"image": images}, Truth({"labels": np.arange(3)}))


# --- synthetic samples ------------------------------------------------------------------------------------------


def test_synthetic_samples_have_the_shapes_and_types_of_the_inputs() -> None:
    inputs = (
        TensorSpec("image", "float32", (None, 30, 40)),
        TensorSpec("half", "float16", (8, 5)),
        TensorSpec("ids", "int64", (None, 16)),
        TensorSpec("mask", "bool", (None, 16)),
        TensorSpec("bytes", "uint8", (None, 16)),
    )
    dataset = synthesize(inputs, 50, seed=1)
    again = synthesize(inputs, 50, seed=1)
    for spec in inputs:
        array = dataset.inputs[spec.name]
        assert array.shape == (50, *spec.shape[1:])
        assert array.dtype == np.dtype(spec.dtype)
        np.testing.assert_array_equal(array, again.inputs[spec.name])
    image = dataset.inputs["image"]
    # 60,000 standard normals: mean within 6 standard errors, chance of false failure below 1e-8.
    assert abs(float(image.mean())) < 6 / np.sqrt(image.size)
    assert set(np.unique(dataset.inputs["ids"])) == {0, 1}
    assert set(np.unique(dataset.inputs["bytes"])) == {0, 1}
    assert set(np.unique(dataset.inputs["mask"])) == {False, True}


@pytest.mark.parametrize("shape", [(None, None), (None, 3, None)])
def test_synthetic_samples_need_fixed_shapes(shape: tuple[int | None, ...]) -> None:
    with pytest.raises(ShapesNotFixed, match="send a dataset"):
        synthesize([TensorSpec("x", "float32", shape)], 4, seed=0)


def test_synthetic_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="samples"):
        synthesize(IMAGE, 0, seed=0)


# --- splits -----------------------------------------------------------------------------------------------------


@given(samples=st.integers(3, 6000), seed=st.integers(0, 2**32 - 1), classes=st.integers(0, 20))
def test_a_split_uses_every_sample_once(samples: int, seed: int, classes: int) -> None:
    labels = np.random.default_rng(seed).integers(0, classes, samples) if classes else None
    parts = split(samples, seed, labels)
    joined = np.concatenate([parts.calibration, parts.search, parts.held_out])
    np.testing.assert_array_equal(np.sort(joined), np.arange(samples))
    assert len(parts.calibration) == max(1, min(samples // 4, 1024))
    assert len(parts.held_out) == max(1, round(0.3 * samples))
    assert all(part.dtype == np.int64 and not part.flags.writeable for part in (parts.calibration, parts.search))


@given(seed=st.integers(0, 2**32 - 1))
def test_parts_and_their_beginnings_hold_the_classes_in_their_shares(seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels = np.sort(generator.choice(5, 1000, p=[0.4, 0.3, 0.2, 0.08, 0.02]))
    parts = split(1000, seed, labels)
    shares = np.bincount(labels, minlength=5) / 1000
    for stretch in (parts.calibration, parts.search, parts.held_out, parts.calibration[:64], parts.held_out[:100]):
        counts = np.bincount(labels[stretch], minlength=5)
        # One for where the stretch begins, one for where it ends, and the length is that of all classes together.
        assert np.abs(counts - shares * len(stretch)).max() <= 3.0


def test_a_split_depends_on_the_seed_alone() -> None:
    first, same, other = split(500, 1), split(500, 1), split(500, 2)
    np.testing.assert_array_equal(first.held_out, same.held_out)
    assert not np.array_equal(first.held_out, other.held_out)
    with pytest.raises(ValueError, match="labels"):
        split(10, 0, np.arange(9))
    with pytest.raises(ValueError, match="samples"):
        split(2, 0)
    np.testing.assert_array_equal(split(500, 1, np.zeros((500, 4), int)).search, first.search)
