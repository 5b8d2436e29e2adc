"""Archives that want to expand, to run code, to lie about themselves, or that are simply broken."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SAMPLES = np.random.default_rng(0).standard_normal((60, 4)).astype(np.float32)


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def header(descr: str, shape: str) -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def pack(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def expect(answer: dict[str, Any], code: str, text: str = "") -> None:
    assert answer.get("code") == code, answer
    assert text in answer["detail"]


def test_the_child_reads_a_sound_archive(child: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=SAMPLES)
    assert child.read(tmp_path / "a.npz")["ok"] == "60 samples"


def test_a_bomb_is_refused_by_its_headers(fresh_child: Any, tmp_path: Path) -> None:
    """256 MiB of zeros in about 255 KiB."""
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, x=np.zeros((1 << 24, 4), np.float32))
    assert path.stat().st_size < 300_000
    np.savez(tmp_path / "a.npz", x=SAMPLES)
    before = fresh_child.read(tmp_path / "a.npz")["peak_bytes"]
    answer = fresh_child.read(path)
    expect(answer, "dataset_too_large", "times as much")
    assert answer["peak_bytes"] - before < 16 << 20


def test_many_arrays_that_share_the_same_bytes_are_refused(child: Any, tmp_path: Path) -> None:
    """Overlapping members (Fifield 2019): every entry of the index points to one compressed stream."""
    data = npy(np.zeros((1 << 20, 4), np.float32))
    pack(tmp_path / "one.npz", {"x.npy": data})
    raw = (tmp_path / "one.npz").read_bytes()
    end = raw.rfind(b"PK\x05\x06")
    size, offset = struct.unpack("<II", raw[end + 12 : end + 20])
    entry = raw[offset : offset + size]
    copies = b"".join(entry.replace(b"x.npy", f"{i:05d}".encode()[:1] + b".npy") for i in range(9))
    tail = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 9, 9, len(copies), offset, 0)
    (tmp_path / "many.npz").write_bytes(raw[:offset] + copies + tail)
    answer = child.read(tmp_path / "many.npz")
    assert answer.get("code") in {"dataset_too_large", "dataset_invalid"}, answer


def test_an_index_larger_than_the_content_is_refused(fresh_child: Any, tmp_path: Path) -> None:
    path = tmp_path / "index.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(30_000):
            archive.writestr(f"{i}.npy", b"")
    np.savez(tmp_path / "a.npz", x=SAMPLES)
    before = fresh_child.read(tmp_path / "a.npz")["peak_bytes"]
    answer = fresh_child.read(path)
    expect(answer, "dataset_too_large", "index")
    assert answer["peak_bytes"] - before < 8 << 20


def test_too_many_arrays_are_refused(child: Any, tmp_path: Path) -> None:
    pack(tmp_path / "a.npz", {f"{i}.npy": npy(SAMPLES) for i in range(65)})
    expect(child.read(tmp_path / "a.npz"), "dataset_too_large", "65 arrays")


class Canary:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_pickles_are_not_read(child: Any, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    objects = np.array([Canary(canary)] * 60, dtype=object)
    np.savez(tmp_path / "a.npz", x=objects)
    expect(child.read(tmp_path / "a.npz"), "dataset_invalid", "object")
    # The same where the header says otherwise, and where the member is a bare pickle.
    payload = npy(objects).split(b"\n", 1)[1]
    lying = header("'<f4'", f"({len(payload) // 4},)") + payload[: len(payload) // 4 * 4]
    pack(tmp_path / "b.npz", {"x.npy": lying, "labels.npy": npy(objects)})
    expect(child.read(tmp_path / "b.npz"), "dataset_invalid", "object")
    pack(tmp_path / "c.npz", {"x.npy": pickle.dumps(Canary(canary))})
    expect(child.read(tmp_path / "c.npz"), "dataset_invalid")
    assert not canary.exists()


@pytest.mark.parametrize(
    ("descr", "shape"),
    [
        ("'<f4'", "(1000000000000, 4)"),
        ("'<f4'", "(4611686018427387904, 4)"),  # times 16 bytes wraps around to 0
        ("'<f4'", "(-1, 4)"),
        ("'<f4'", "(60, 4.0)"),
        ("'<f4'", "(" + "1, " * 40 + ")"),
        ("'<f4'", "(True, 4)"),
        ("'|O'", "(60, 4)"),
        ("'|S1000000000'", "(60, 4)"),
        ("[('a', '<f4', (1000000000,))]", "(60, 4)"),
        ("('<f4', (1000000000,))", "(60, 4)"),
        ("'<f16'", "(60, 4)"),
        ("__import__('os').getcwd()", "(60, 4)"),
        ("'nonsense'", "(60, 4)"),
        ("(" * 900 + ")" * 900, "(60, 4)"),
        ("[" * 90 + "]" * 90, "(60, 4)"),
    ],
)
def test_headers_that_lie_are_refused(child: Any, tmp_path: Path, descr: str, shape: str) -> None:
    pack(tmp_path / "a.npz", {"x.npy": header(descr, shape) + SAMPLES.tobytes()})
    expect(child.read(tmp_path / "a.npz"), "dataset_invalid")


@pytest.mark.parametrize("length", [0, 3, 11, 70])
def test_cut_headers_are_refused(child: Any, tmp_path: Path, length: int) -> None:
    pack(tmp_path / "a.npz", {"x.npy": npy(SAMPLES)[:length]})
    expect(child.read(tmp_path / "a.npz"), "dataset_invalid")


def test_a_header_of_megabytes_is_refused(child: Any, tmp_path: Path) -> None:
    text = b"{" + b" " * (1 << 24) + b"}\n"
    pack(tmp_path / "a.npz", {"x.npy": b"\x93NUMPY\x02\x00" + struct.pack("<I", len(text)) + text})
    expect(child.read(tmp_path / "a.npz"), "dataset_invalid")


@pytest.mark.parametrize("change", [-4, 4])
def test_data_must_be_as_long_as_their_header_says(child: Any, tmp_path: Path, change: int) -> None:
    data = npy(SAMPLES)
    pack(tmp_path / "a.npz", {"x.npy": data[:change] if change < 0 else data + bytes(change)})
    expect(child.read(tmp_path / "a.npz"), "dataset_invalid", "damaged")


def test_names_never_become_paths(child: Any, tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    pack(inner / "a.npz", {"../../escaped.npy": npy(SAMPLES), "/tmp/escaped.npy": npy(SAMPLES)})
    expect(child.read(inner / "a.npz"), "dataset_wrong_names", "escaped")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.npz", "inner"]


def test_members_that_are_no_arrays_or_come_twice_are_refused(child: Any, tmp_path: Path) -> None:
    pack(tmp_path / "a.npz", {"x.npy": npy(SAMPLES), "run.sh": b"#!/bin/sh"})
    expect(child.read(tmp_path / "a.npz"), "dataset_invalid", "run.sh")
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("x.npy", npy(SAMPLES))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("x.npy", npy(SAMPLES))
    expect(child.read(tmp_path / "b.npz"), "dataset_invalid", "two arrays")
    pack(tmp_path / "c.npz", {})
    expect(child.read(tmp_path / "c.npz"), "dataset_invalid", "empty")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_unusual_compression_is_refused(child: Any, tmp_path: Path, method: int) -> None:
    pack(tmp_path / "a.npz", {"x.npy": npy(SAMPLES)}, method)
    expect(child.read(tmp_path / "a.npz"), "dataset_invalid", "compressed in an unusual way")


def test_encrypted_members_are_refused(child: Any, tmp_path: Path) -> None:
    raw = bytearray(pack(tmp_path / "a.npz", {"x.npy": npy(SAMPLES)}).read_bytes())
    for magic, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        raw[raw.find(magic) + place] |= 1
    (tmp_path / "a.npz").write_bytes(raw)
    expect(child.read(tmp_path / "a.npz"), "dataset_invalid", "encrypted")


def test_a_wrong_checksum_is_noticed(child: Any, tmp_path: Path) -> None:
    raw = bytearray(pack(tmp_path / "a.npz", {"x.npy": npy(SAMPLES)}, zipfile.ZIP_STORED).read_bytes())
    raw[raw.find(SAMPLES.tobytes()) + 5] ^= 1
    (tmp_path / "a.npz").write_bytes(raw)
    expect(child.read(tmp_path / "a.npz"), "dataset_invalid", "CRC")


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        (b"", "0 bytes"),
        (b"hello", "5 bytes"),
        (b"PK\x03\x04" + bytes(99), "not an .npz"),
    ],
)
def test_other_files_are_named(child: Any, tmp_path: Path, data: bytes, hint: str) -> None:
    (tmp_path / "a.npz").write_bytes(data)
    expect(child.read(tmp_path / "a.npz"), "dataset_invalid", hint)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), compressed=st.booleans())
def test_damaged_archives_are_read_or_refused(
    child: Any, tmp_path: Path, data: st.DataObject, compressed: bool
) -> None:
    """Any bytes changed, a piece cut out or repeated: samples or one of our errors, never anything else."""
    members = {"x.npy": npy(SAMPLES), "labels.npy": npy(np.arange(60))}
    method = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    raw = bytearray(pack(tmp_path / "a.npz", members, method).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        # Mostly in the parts that steer: the local headers and the index.
        place = data.draw(
            st.one_of(st.integers(0, 140), st.integers(len(raw) - 150, len(raw) - 1), st.integers(0, len(raw) - 1))
        )
        place = min(max(place, 0), len(raw) - 1)
        kind = data.draw(st.sampled_from(["set", "cut", "repeat"]))
        if kind == "set":
            raw[place] = data.draw(st.integers(0, 255))
        else:
            stop = min(len(raw), place + data.draw(st.integers(1, 40)))
            raw[place:stop] = b"" if kind == "cut" else bytes(raw[place:stop]) * 2
    (tmp_path / "a.npz").write_bytes(raw)
    answer = child.read(tmp_path / "a.npz")
    assert "ok" in answer or "code" in answer, answer
    assert answer["cpu_seconds"] < 60
