"""Every form that samples come in gives the same samples; what is no array of numbers is refused by name."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
import safetensors.numpy

from evaluation.dataset import Dataset, read_dataset
from evaluation.description import described
from evaluation.errors import DatasetError, DatasetInvalid, DatasetTooLarge
from evaluation.forms.opening import open_archive
from network.tensor_spec import TensorSpec

SAMPLES = 60
random = np.random.default_rng(0)
ARRAYS = {
    "x": random.standard_normal((SAMPLES, 3, 4)).astype(np.float32),
    "mask": random.integers(0, 2, (SAMPLES, 5)).astype(bool),
    "labels": np.arange(SAMPLES, dtype=np.int64) % 7,
    "targets.y": random.standard_normal((SAMPLES, 2)).astype(np.float16),
}
INPUTS = (TensorSpec("x", "float32", (None, 3, 4)), TensorSpec("mask", "bool", (None, 5)))
MOST = 1 << 30


def lists(array: np.ndarray, fixed: bool) -> pa.Array:
    """`[rows, ...]` as a column of nested lists."""
    column: pa.Array = pa.array(array.reshape(-1))
    for length in reversed(array.shape[1:]):
        if fixed:
            column = pa.FixedSizeListArray.from_arrays(column, length)
        else:
            column = pa.ListArray.from_arrays(np.arange(0, len(column) + 1, length, dtype=np.int32), column)
    return column


def table(arrays: dict[str, np.ndarray], fixed: bool = False) -> pa.Table:
    return pa.table({name: lists(array, fixed) for name, array in arrays.items()})


def tensors(arrays: dict[str, np.ndarray]) -> pa.Table:
    columns = {
        name: pa.FixedShapeTensorArray.from_numpy_ndarray(array)
        if array.ndim > 1 and array.dtype == np.float32
        else lists(array, True)
        for name, array in arrays.items()
    }
    return pa.table(columns)


def write_hdf5(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(
                name, data=array, compression="gzip" if array.ndim > 1 else None, shuffle=array.ndim > 1
            )


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with path.open("wb") as file:
        np.savez(file, **arrays)


def write_zip(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("folder/", "")
        archive.writestr("__MACOSX/._x.npy", "junk")
        for name, array in arrays.items():
            with archive.open(f"folder/{name}.npy", "w") as member:
                np.lib.format.write_array(member, array)


def write_stream(path: Path, arrays: dict[str, np.ndarray]) -> None:
    whole = table(arrays)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, whole.schema) as writer:
        writer.write_table(whole, max_chunksize=17)


WRITERS: dict[str, Callable[[Path, dict[str, np.ndarray]], None]] = {
    "npz": write_npz,
    "zip": write_zip,
    "hdf5": write_hdf5,
    "parquet": lambda path, arrays: pq.write_table(table(arrays), path, row_group_size=13),
    "parquet_fixed": lambda path, arrays: pq.write_table(table(arrays, fixed=True), path, compression="zstd"),
    "parquet_tensors": lambda path, arrays: pq.write_table(tensors(arrays), path),
    "feather": lambda path, arrays: pyarrow.feather.write_feather(table(arrays), path, compression="lz4"),
    "arrow_tensors": lambda path, arrays: pyarrow.feather.write_feather(tensors(arrays), path),
    "arrow_stream": write_stream,
    "safetensors": lambda path, arrays: safetensors.numpy.save_file(arrays, path),
}


@pytest.fixture(params=WRITERS)
def written(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "samples"  # no name tells the form
    WRITERS[request.param](path, ARRAYS)
    return path


def same(dataset: Dataset, arrays: dict[str, np.ndarray]) -> None:
    for name in ("x", "mask"):
        assert dataset.inputs[name].dtype == arrays[name].dtype
        assert np.array_equal(dataset.inputs[name], arrays[name])
    assert np.array_equal(dataset.truth.arrays["labels"], arrays["labels"])
    assert np.array_equal(dataset.truth.arrays["targets.y"], arrays["targets.y"].astype(np.float32))


def test_every_form_gives_the_same_samples(written: Path) -> None:
    same(read_dataset(written, INPUTS, MOST), ARRAYS)


def test_every_form_gives_its_first_samples(written: Path) -> None:
    with open_archive(written, MOST) as archive:
        for name, header in archive.headers.items():
            first = archive.first(name, 5)
            assert np.array_equal(first, ARRAYS[name.removeprefix("folder/")][:5])
            assert header.shape == (SAMPLES, *first.shape[1:])
            assert archive.first(name, 10**6).shape == header.shape


def test_every_form_is_described_alike(written: Path) -> None:
    document = described(written, MOST)
    assert document["samples"] == SAMPLES
    assert document["labels"]["classes"] == 7
    by_name = {array["name"].removeprefix("folder/"): array for array in document["arrays"]}
    assert by_name["x"]["mean"] == pytest.approx(float(ARRAYS["x"].mean(dtype=np.float64)))
    assert {name: array["role"] for name, array in by_name.items()} == {
        "x": "input",
        "mask": "input",
        "labels": "labels",
        "targets.y": "targets",
    }


def test_more_bytes_than_are_allowed_are_refused_in_every_form(written: Path) -> None:
    with pytest.raises(DatasetTooLarge, match=r"at most|more than"):
        open_archive(written, 1000)


def test_every_form_that_is_cut_off_is_refused(written: Path) -> None:
    data = written.read_bytes()
    for kept in (len(data) // 2, len(data) - 9, 40):
        written.write_bytes(data[:kept])
        with pytest.raises(DatasetError):
            read_dataset(written, INPUTS, MOST)


@pytest.mark.parametrize("order", ["C", "F"])
def test_one_array_is_the_samples_of_the_only_input(tmp_path: Path, order: str) -> None:
    array = np.asarray(random.standard_normal((SAMPLES, 6)).astype(">f4"), order=order)
    np.save(tmp_path / "a.npy", array)
    dataset = read_dataset(tmp_path / "a.npy", [TensorSpec("any", "float32", (None, 6))], MOST)
    assert np.array_equal(dataset.inputs["any"], array)
    with open_archive(tmp_path / "a.npy", MOST) as archive:
        assert np.array_equal(archive.first("samples", 3), array[:3])


def test_groups_of_lengths_in_hdf5(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for length in (3, 8):
            group = file.create_group(f"length{length}")
            group["ids"] = np.full((30, length), length)
            group["labels"] = np.full(30, length % 2)
    dataset = read_dataset(tmp_path / "a.h5", [TensorSpec("ids", "int64", (None, None))], MOST)
    assert sorted(len(sample) for sample in dataset.inputs["ids"]) == [3] * 30 + [8] * 30
    assert dataset.labels is not None
    assert dataset.labels.sum() == 30
    assert described(tmp_path / "a.h5", MOST)["samples"] == 60


def test_columns_of_texts_nulls_and_different_lengths_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a"
    cases = {
        "tokenizer": pa.table({"text": ["a", "b"]}),
        "no value in row 1": pa.table({"x": pa.array([1.0, None])}),
        "different lengths: [1] at row 1": pa.table({"x": [[1, 2], [3]]}),
        "folder of them": pa.table({"image": [{"bytes": b"", "path": ""}]}),
    }
    for said, wrong in cases.items():
        for write in (pq.write_table, pyarrow.feather.write_feather):
            write(wrong, path)
            with pytest.raises(DatasetInvalid) as refused, open_archive(path, MOST) as archive:
                archive.read(next(iter(archive.headers)))
            assert said in str(refused.value)
    long = [[1, 2]] * 1000 + [[3]]
    pq.write_table(pa.table({"x": long}), path)
    with open_archive(path, MOST) as archive, pytest.raises(DatasetInvalid, match="row 1,000"):
        archive.read("x")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x80\x04\x95", "pickle"),
        (b"\x89PNG\r\n", "put images into a folder"),
        (b"version https://git-lfs.github.com/spec/v1", "LFS pointer"),
        (b"FEA1....", "version 1"),
        (b"", "0 bytes"),
        (b"a,b\n1,2\n", "not an .npz"),
    ],
)
def test_other_files_are_named(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(DatasetInvalid, match=said):
        open_archive(tmp_path / "a", MOST)


def test_safetensors_of_a_type_that_numpy_lacks_are_named(tmp_path: Path) -> None:
    header = b'{"x":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}'
    (tmp_path / "a").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(DatasetInvalid, match="BF16"):
        open_archive(tmp_path / "a", MOST)
