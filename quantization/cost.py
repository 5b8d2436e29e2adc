"""Bytes of the file that `quantization.export` writes, known without writing it.

A file is its skeleton (everything but the site weights), plus what each weight adds, plus one function for each digit
layout in use. Only the last does not belong to one site: `skeleton_bytes` counts the functions of all formats that a
plan may choose from (1,100 bytes for all widths, as many more with planes that do not end with a tensor). So the sum
over sites is additive, and never below the file but for the few bytes by which length prefixes grow. `file_bytes` is
exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import onnx
from onnx import TensorProto, helper

from network.graph import Network
from quantization.dequantize import DOMAIN, DOMAIN_VERSION, call, function
from quantization.formats import FloatFormat, Format, Granularity, IntegerFormat
from quantization.packing import digits
from quantization.passes import (
    DIGIT_LETTERS,
    SCALE_LETTER,
    SUFFIX_LENGTH,
    AddMetadata,
    DropDebris,
    apply,
    draft_without,
)


def weight_bytes(format_: Format, shape: tuple[int, ...], channel_axis: int, name: str) -> int:
    """What storing the initializer `name` of `shape` in `format_` adds to the file, in bytes.

    Exact for the first 3,844 weights of a network; each later one takes up to eight bytes more for longer names.
    """
    if not isinstance(format_, IntegerFormat):
        return _initializer_bytes(name, TensorProto.FLOAT, shape, 4 * math.prod(shape))
    suffix = "0" * SUFFIX_LENGTH
    parts = digits(format_.bits)
    names = [letter + suffix for letter in [*DIGIT_LETTERS[: len(parts)], SCALE_LETTER]]
    scale_shape: tuple[int, ...] = ()
    if format_.granularity is Granularity.CHANNEL:
        scale_shape = tuple(n if axis == channel_axis % len(shape) else 1 for axis, n in enumerate(shape))
    total = _initializer_bytes(names[-1], TensorProto.FLOAT, scale_shape, 4 * math.prod(scale_shape))
    for digit, digit_name in zip(parts, names, strict=False):
        total += _initializer_bytes(digit_name, digit.data_type, digit.dims(shape), digit.size_bytes(shape))
    return total + _field_bytes(1, call(format_.bits, shape, names, name).ByteSize())


def skeleton_bytes(network: Network, formats: Iterable[Format] = (), metadata: Mapping[str, str] | None = None) -> int:
    """The file without the weights of any site, in bytes, with the functions of all `formats` (see the module)."""
    shapes = {site.shape for site in network.sites}
    functions = _functions_bytes(((f, shape) for f in set(formats) for shape in shapes), network.opset)
    return int(_skeleton(network, metadata or {}).ByteSize()) + functions


def file_bytes(network: Network, plan: Mapping[str, Format], metadata: Mapping[str, str] | None = None) -> int:
    """The size in bytes of what `export` writes for `plan`, a format by initializer name, float32 where none is given.

    Exact, but for up to eight bytes a weight in networks of more than 3,844 quantized weights.
    """
    skeleton = _skeleton(network, metadata or {})
    formats = {site.weight: (site, plan.get(site.weight, FloatFormat())) for site in network.sites}
    graph = skeleton.graph.ByteSize() + sum(
        weight_bytes(format_, site.shape, site.channel_axis, name) for name, (site, format_) in formats.items()
    )
    skeleton.ClearField("graph")
    functions = _functions_bytes(((f, site.shape) for site, f in formats.values()), network.opset)
    return int(skeleton.ByteSize()) + functions + _field_bytes(7, graph)


def _skeleton(network: Network, metadata: Mapping[str, str]) -> onnx.ModelProto:
    draft = draft_without(network.proto, {site.weight for site in network.sites})
    apply(draft, [DropDebris(), AddMetadata(metadata)])
    return draft


def _functions_bytes(uses: Iterable[tuple[Format, tuple[int, ...]]], opset: int) -> int:
    """The functions that weights of these formats and shapes call, each once, and the import of the domain."""
    functions = {function(f.bits, shape, opset) for f, shape in uses if isinstance(f, IntegerFormat)}
    domain = onnx.ModelProto(opset_import=[helper.make_opsetid(DOMAIN, DOMAIN_VERSION)]).ByteSize()
    return sum(_field_bytes(25, len(body)) for body in functions) + (domain if functions else 0)


def _initializer_bytes(name: str, data_type: int, dims: tuple[int, ...], raw_bytes: int) -> int:
    header = TensorProto(name=name, data_type=data_type, dims=dims).ByteSize()
    return _field_bytes(5, header + _field_bytes(9, raw_bytes))


def _field_bytes(number: int, length: int) -> int:
    """A protobuf field of `length` bytes: its tag, its length as a varint, and itself."""
    return _varint_bytes(number << 3) + _varint_bytes(length) + length


def _varint_bytes(value: int) -> int:
    return max(1, math.ceil(value.bit_length() / 7))
