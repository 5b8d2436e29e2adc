"""Counting samples by headers: as numpy writes them, and as somebody may send them who wants to pass a quota."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.access import samples
from app.access.samples import count_samples
from app.errors import AppError


def _npz(compressed: bool = False, **arrays: Any) -> io.BytesIO:
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, **arrays)
    file.seek(0)
    return file


@given(
    shape=st.lists(st.integers(0, 5), max_size=4), kind=st.sampled_from(["<f4", ">i8", "?"]), compressed=st.booleans()
)
def test_the_first_axis_is_that_of_numpy(shape: list[int], kind: str, compressed: bool) -> None:
    array = np.zeros(shape, np.dtype(kind))
    file = _npz(compressed, x=array, labels=np.zeros(3))
    assert count_samples(file) == max(array.shape[0] if shape else 0, 3)
    assert file.tell() == 0


def test_an_array_is_not_expanded() -> None:
    file = _npz(True, x=np.zeros((1000, 100_000), np.int8))
    assert file.getbuffer().nbytes < 200_000
    assert count_samples(file) == 1000


def _archive(name: str, data: bytes, method: int = zipfile.ZIP_STORED) -> io.BytesIO:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr(name, data)
    return file


def _damaged_lzma() -> io.BytesIO:
    contents = bytearray(_archive("x.npy", bytes(range(200)), zipfile.ZIP_LZMA).getvalue())
    contents[60:90] = bytes(30)
    return io.BytesIO(bytes(contents))


@pytest.mark.parametrize(
    "file",
    [
        io.BytesIO(b"no archive"),
        io.BytesIO(b""),
        _archive("x.npy", b"\x93NUM"),
        _archive("x.npy", b"\x93NUMPY\x03\x00" + b"\x00" * 20),
        _archive("x.npy", b"\x93NUMPY\x01\x00\x20\x00" + b"(" * 32),
        _archive("x.npy", b"\x93NUMPY\x01\x00\x10\x00{'shape': (1.5,)}"),
        _archive("x.npy", b"\x93NUMPY\x02\x00\xff\xff\xff\xff"),
        _damaged_lzma(),
    ],
)
def test_what_cannot_be_counted_is_refused(file: io.BytesIO) -> None:
    with pytest.raises(AppError, match="dataset_invalid: the samples cannot be counted"):
        count_samples(file)


def test_a_huge_index_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "INDEX_BYTES", 1000)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number in range(100):
            archive.writestr(f"{number}.npy", b"")
    with pytest.raises(AppError, match="its index has more than 1000 bytes"):
        count_samples(file)


def test_other_forms_that_python_alone_can_read_are_counted() -> None:
    import safetensors.numpy

    alone = io.BytesIO()
    np.save(alone, np.zeros((70, 3), np.float32))
    alone.seek(0)
    assert count_samples(alone) == 70
    tensors = io.BytesIO(safetensors.numpy.save({"x": np.zeros((80, 2)), "labels": np.zeros(80, np.int64)}))
    assert count_samples(tensors) == 80
    assert tensors.tell() == 0
    for header in (b"{", b"[]", b'{"x": 1}', b'{"x": {"shape": [[]]}}'):
        with pytest.raises(AppError, match="dataset_invalid"):
            count_samples(io.BytesIO(len(header).to_bytes(8, "little") + b"{" + header))
