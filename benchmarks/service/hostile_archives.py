"""Archives that want to expand, to write elsewhere, to run code, or that lie about themselves.

Members have no time of their own, so that the same seed gives the same bytes.
"""

from __future__ import annotations

import io
import os
import pickle
import random
import stat
import struct
import warnings
import zipfile
from collections.abc import Callable, Mapping
from functools import cache

import numpy as np
import onnx
from onnx import TensorProto

from benchmarks.service.hostile_made import graph_file, node
from benchmarks.service.hostile_mutations import cut, flipped, spliced

SAMPLES = 60


@cache
def sound_model() -> bytes:
    """A network of one layer: `x` [N, 4] in."""
    weight = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
    return graph_file([node("MatMul", ["x", "W"], ["y"])], {"W": weight})


@cache
def samples() -> np.ndarray:
    """Samples for it [60, 4]."""
    return np.random.default_rng(1).standard_normal((SAMPLES, 4)).astype(np.float32)


def _packed(members: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return buffer.getvalue()


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def _header(descr: str, shape: str) -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def _outside(location: str, offset: int = 0, length: int = 64) -> bytes:
    """The sound network with its weight in a file beside it."""
    model = onnx.ModelProto.FromString(sound_model())
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, text in (("location", location), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=text)
    return bytes(model.SerializeToString())


def model_bomb(chance: random.Random) -> bytes:
    """A gigabyte of zeros in a megabyte, as the model or as the data of its weight."""
    zeros = bytes(chance.choice((1 << 26, 1 << 28)))
    if chance.random() < 0.5:
        return _packed({"m.onnx": zeros})
    return _packed({"m.onnx": _outside("W.bin"), "W.bin": zeros})


def traversal(chance: random.Random) -> bytes:
    name = chance.choice(("../W.bin", "/etc/W.bin", "a/../../W.bin", "..\\W.bin", "C:W.bin", "W.bin\0.txt", "."))
    return _packed({"m.onnx": _outside(name), name: bytes(64)})


def link(chance: random.Random) -> bytes:
    """A symbolic link in place of the data."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo("m.onnx"), _outside("W.bin"))
        info = zipfile.ZipInfo("W.bin")
        info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, chance.choice(("/etc/passwd", "../secret", "W.bin")))
    return buffer.getvalue()


def nested(chance: random.Random) -> bytes:
    data = _packed({"m.onnx": sound_model()})
    for _ in range(chance.randint(1, 5)):
        data = _packed({chance.choice(("m.onnx", "m.zip", "0")): data})
    return data


def encrypted(chance: random.Random) -> bytes:
    raw = bytearray(_packed({"m.onnx": sound_model()}))
    for magic, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        raw[raw.find(magic) + place] |= chance.choice((1, 1, 0x40, 0x41))
    return bytes(raw)


def same_names(chance: random.Random) -> bytes:
    buffer = io.BytesIO()
    names = chance.choice((["m.onnx", "m.onnx"], ["m.onnx", "n.onnx"], ["m.onnx", "W.bin", "W.bin"]))
    with zipfile.ZipFile(buffer, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), _outside("W.bin") if name.endswith("onnx") else bytes(64))
    return buffer.getvalue()


def wrong_piece(chance: random.Random) -> bytes:
    """Data that are missing, cut off, or lie behind the end of their file."""
    offset, length = chance.choice(((0, 65), (1, 64), (-1, 64), (0, -1), (2**62, 2**62), (2**63 - 1, 1), (0, 2**70)))
    members = {"m.onnx": _outside("W.bin", offset, length)}
    return _packed(members if chance.random() < 0.2 else {**members, "W.bin": bytes(64)})


def many_members(chance: random.Random) -> bytes:
    return _packed({"m.onnx": sound_model(), **{f"{index}": b"" for index in range(chance.choice((3_000, 8_000)))}})


def damaged_archive(chance: random.Random) -> bytes:
    """A sound archive of a model, changed in its index or anywhere."""
    method = chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    raw = _packed({"m.onnx": _outside("W.bin"), "W.bin": bytes(range(64))}, method)
    return chance.choice((flipped, cut, spliced))(raw, chance)


def data_bomb(chance: random.Random) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=np.zeros((chance.choice((1 << 22, 1 << 24)), 4), np.float32))
    return buffer.getvalue()


class _Canary:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch /tmp/bitbudget-was-here",)


def pickled(chance: random.Random) -> bytes:
    objects = np.array([_Canary()] * SAMPLES, dtype=object)
    raw = chance.choice((_npy(objects), pickle.dumps(_Canary())))
    return _packed(chance.choice(({"x.npy": raw}, {"x.npy": _npy(samples()), "labels.npy": raw})))


def lying_header(chance: random.Random) -> bytes:
    kind, shape = chance.choice(
        (
            ("'<f4'", "(1000000000000, 4)"),
            ("'<f4'", "(4611686018427387904, 4)"),
            ("'<f4'", "(-1, 4)"),
            ("'<f4'", "(True, 4)"),
            ("'|S1000000000'", "(60, 4)"),
            ("[('a', '<f4', (1000000000,))]", "(60, 4)"),
            ("__import__('os').getcwd()", "(60, 4)"),
            ("(" * 900 + ")" * 900, "(60, 4)"),
            ("'<f4'", "(60, 4"),
            ("'<f4'", "()"),
            ("'<f4'", "(" + "1, " * 60 + ")"),
        )
    )
    return _packed({"x.npy": _header(kind, shape) + samples().tobytes()})


def wrong_samples(chance: random.Random) -> bytes:
    """Sound arrays that do not fit: types, shapes, names, counts, values."""
    x = samples()
    arrays: dict[str, np.ndarray] = chance.choice(
        (
            {"x": x.astype(np.float64) * 1e300},
            {"x": np.where(x > 0, np.nan, x)},
            {"x": np.full_like(x, np.inf)},
            {"x": x[:0]},
            {"x": x[:, :0]},
            {"x": x[0, 0]},
            {"x": np.repeat(x[:, :, None], 3, axis=2)},
            {"x": x.astype(np.int8)},
            {"x": x.astype(np.complex64)},
            {"x": x, "labels": np.full(SAMPLES, -(1 << 62))},
            {"x": x, "labels": np.full(SAMPLES, (1 << 63) - 1)},
            {"x": x, "labels": np.full((SAMPLES, 4), np.nan, np.float32)},
            {"x": x, "targets": np.full((SAMPLES, 4), np.inf, np.float32)},
            {"x": x, "boxes": x},
            {"x": x[:50], "labels": np.zeros(SAMPLES, np.int64)},
            {"x": x, "../y": x},
            {"y": x},
            {"x": np.zeros_like(x)},
            {"x": np.full_like(x, 1e38)},
            {"a/x": x, "b/x": x[:, :2]},
        )
    )
    return _packed({f"{name}.npy": _npy(array) for name, array in arrays.items()})


def damaged_samples(chance: random.Random) -> bytes:
    method = chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    raw = _packed({"x.npy": _npy(samples()), "labels.npy": _npy(np.arange(SAMPLES) % 4)}, method)
    return chance.choice((flipped, cut, spliced))(raw, chance)


Archive = Callable[[random.Random], bytes]
MODELS: Mapping[str, Archive] = {
    made.__name__: made
    for made in (
        *(model_bomb, traversal, link, nested, encrypted, same_names, wrong_piece, many_members, damaged_archive),
    )
}
DATASETS: Mapping[str, Archive] = {
    made.__name__: made for made in (data_bomb, pickled, lying_header, wrong_samples, damaged_samples)
}
