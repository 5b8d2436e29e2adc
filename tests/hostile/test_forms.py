"""Files of arrays in other forms than zip that want to expand, to read other files, to load code, or that lie."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SAMPLES = np.random.default_rng(0).standard_normal((60, 4)).astype(np.float32)


def expect(answer: dict[str, Any], code: str, text: str = "") -> None:
    assert answer.get("code") == code, answer
    assert text in answer["detail"]


def hdf5(path: Path, fill: Callable[[h5py.File], object]) -> Path:
    with h5py.File(path, "w") as file:
        fill(file)
    return path


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    return hdf5(tmp_path / "secret.h5", lambda file: file.create_dataset("x", data=SAMPLES))


def test_hdf5_does_not_lead_out_of_its_file(child: Any, tmp_path: Path, secret: Path) -> None:
    path = tmp_path / "a.h5"
    hdf5(path, lambda file: file.__setitem__("x", h5py.ExternalLink(str(secret), "/x")))
    expect(child.read(path), "dataset_invalid", "is a link")
    hdf5(path, lambda file: file.__setitem__("x", h5py.SoftLink("/x")))
    expect(child.read(path), "dataset_invalid", "is a link")
    layout = h5py.VirtualLayout((60, 4), np.float32)
    layout[:] = h5py.VirtualSource(str(secret), "x", (60, 4))
    hdf5(path, lambda file: file.create_virtual_dataset("x", layout))
    expect(child.read(path), "dataset_invalid", "in other files")
    raw = tmp_path / "raw"
    raw.write_bytes(SAMPLES.tobytes())
    hdf5(path, lambda file: file.create_dataset("x", (60, 4), np.float32, external=[(str(raw), 0, SAMPLES.nbytes)]))
    expect(child.read(path), "dataset_invalid", "in other files")


def test_hdf5_loads_no_filter(child: Any, tmp_path: Path) -> None:
    def fill(file: h5py.File) -> None:
        made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        made.set_chunk((60, 4))
        made.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (3,))  # zstd, a plugin
        space = h5py.h5s.create_simple((60, 4))
        h5py.h5d.create(file.id, b"x", h5py.h5t.NATIVE_FLOAT, space, dcpl=made)

    expect(child.read(hdf5(tmp_path / "a.h5", fill)), "dataset_invalid", "32015")


def test_hdf5_of_data_that_are_not_there_does_not_expand(fresh_child: Any, tmp_path: Path) -> None:
    """A gigabyte of fill values in a file of some hundred bytes; and one chunk of a gigabyte."""
    path = hdf5(tmp_path / "a.h5", lambda file: file.create_dataset("x", (1 << 26, 4), np.float32, chunks=(1024, 4)))
    assert path.stat().st_size < 10_000
    expect(fresh_child.read(path), "dataset_too_large", "times as much")
    path = hdf5(
        path, lambda file: file.create_dataset("x", (60, 4), np.float32, chunks=(1 << 26, 4), maxshape=(None, 4))
    )
    expect(fresh_child.read(path), "dataset_too_large", "chunks")


def test_hdf5_that_nests_without_end_or_holds_objects_is_refused(child: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    hdf5(path, lambda file: file.create_group("g").__setitem__("again", file["g"]))
    expect(child.read(path), "dataset_invalid", "levels deep")
    hdf5(path, lambda file: [file.create_group(f"g{place}") for place in range(70)])
    expect(child.read(path), "dataset_too_large", "70 arrays")
    hdf5(path, lambda file: file.create_dataset("x", data=["text"] * 60))
    expect(child.read(path), "dataset_invalid", "type")
    hdf5(path, lambda file: None)
    expect(child.read(path), "dataset_invalid", "empty")


@pytest.mark.parametrize("holds_arrays", [True, False])
def test_hdf5_groups_that_share_groups_are_not_followed_to_their_end(
    child: Any, tmp_path: Path, holds_arrays: bool
) -> None:
    """Four groups, and thousands of paths through them."""

    def fill(file: h5py.File) -> None:
        inner = file.create_group("0")
        if holds_arrays:
            inner.create_dataset("x", data=SAMPLES)
        for level in range(1, 4):
            outer = file.create_group(str(level))
            for place in range(16):
                outer[f"{place}"] = inner
            inner = outer

    expect(child.read(hdf5(tmp_path / "a.h5", fill)), "dataset_too_large", "groups and arrays")


def test_a_parquet_bomb_is_refused_by_its_footer(fresh_child: Any, tmp_path: Path) -> None:
    """Half a gigabyte of one value, in some ten kilobytes."""
    path = tmp_path / "a.parquet"
    column = pa.array(np.zeros(1 << 25, np.float32))
    pq.write_table(pa.table(dict.fromkeys("abcd", column)), path, compression="zstd", row_group_size=1 << 25)
    assert path.stat().st_size < 1 << 20
    expect(fresh_child.read(path), "dataset_too_large", "times as much")


def test_a_footer_that_lies_is_refused(child: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"x": SAMPLES[:, 0]}), path)
    data = path.read_bytes()
    path.write_bytes(data[:-8] + (1 << 30).to_bytes(4, "little") + b"PAR1")
    expect(child.read(path), "dataset_invalid", "cut off")
    path.write_bytes(b"PAR1" + bytes(9 << 20) + (8 << 20).to_bytes(4, "little") + b"PAR1")
    expect(child.read(path), "dataset_too_large", "footer")


def test_a_header_of_safetensors_that_lies_is_refused(child: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    for header in (
        b'{"x":{"dtype":"F32","shape":[60,4],"data_offsets":[0,8]}}',
        b'{"x":{"dtype":"F32","shape":[9223372036854775807,9],"data_offsets":[0,8]}}',
        b'{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"y":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
        b"{" + b"[" * 5000,
    ):
        path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
        expect(child.read(path), "dataset_invalid", "safetensors")
    path.write_bytes((2 << 20).to_bytes(8, "little") + b"{" + bytes(3 << 20))
    expect(child.read(path), "dataset_too_large", "header")


def write(form: str, path: Path) -> bytes:
    if form == "hdf5":
        hdf5(path, lambda file: file.create_dataset("x", data=SAMPLES, compression="gzip"))
    elif form == "safetensors":
        safetensors.numpy.save_file({"x": SAMPLES}, path)
    elif form == "npy":
        buffer = io.BytesIO()
        np.save(buffer, SAMPLES)
        path.write_bytes(buffer.getvalue())
    else:
        table = pa.table({"x": SAMPLES.tolist()})
        (pq.write_table if form == "parquet" else pyarrow.feather.write_feather)(table, path)
    return path.read_bytes()


@pytest.mark.parametrize("form", ["hdf5", "parquet", "arrow", "safetensors", "npy"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_are_read_or_refused(child: Any, tmp_path: Path, form: str, data: st.DataObject) -> None:
    """Any bytes changed or a piece cut out: samples or one of our errors; a crash costs the child alone."""
    raw = bytearray(write(form, tmp_path / "a"))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.one_of(st.integers(8, min(200, len(raw) - 1)), st.integers(8, len(raw) - 1)))
        if data.draw(st.booleans()):
            raw[min(place, len(raw) - 1)] = data.draw(st.integers(0, 255))
        else:
            del raw[place : place + data.draw(st.integers(1, 40))]
        if len(raw) < 20:
            break
    (tmp_path / "a").write_bytes(raw)
    answer = child.read(tmp_path / "a")
    assert "ok" in answer or "code" in answer or "crashed" in answer, answer
    assert answer["cpu_seconds"] < 60


def test_offsets_of_arrow_that_lie_are_not_followed(child: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    pyarrow.feather.write_feather(pa.table({"x": SAMPLES.tolist()}), path, compression="uncompressed")
    offsets = np.arange(0, 61 * 4, 4, dtype=np.int32)
    raw = path.read_bytes()
    assert raw.count(offsets.tobytes()) == 1
    far_behind = offsets + np.int32(1 << 28)  # lists of four all the same
    path.write_bytes(raw.replace(offsets.tobytes(), far_behind.tobytes()))
    expect(child.read(path), "dataset_invalid", "cannot be read")
