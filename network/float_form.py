"""An uploaded network with its weights as float32 constants, whatever form they came in.

Each step is proved against the file before it, and left out where an output changes. A network that computed in 16 bits
is the same one in float32 up to the rounding of 16 bits alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from network.proof import Feed, Reference, unlike, unlike_in_halves
from network.quantized_weights import with_floats
from network.widening import HALVES, weight_types, widened


@dataclass(frozen=True, slots=True, eq=False)
class FloatForm:
    """The model with its file; `of_halves`: its weights had 16 bits; `kept`: why others are not float32."""

    model: ModelProto
    file: bytes | Path
    of_halves: bool
    kept: tuple[str, ...]


def in_float32(
    uploaded: bytes | Path, model: ModelProto, given: Sequence[Feed], threads: int, *, requantize: bool
) -> FloatForm:
    """The float form of an admitted model.

    Args:
        uploaded: the file as it came, or its bytes.
        model: what `admit` returned of it; not changed.
        given: what to compare on.
        threads: of ONNX Runtime.
        requantize: whether codes in the file become floats, too.

    Raises:
        ModelInvalid: ONNX Runtime does not run the uploaded file, where there is anything to change.
    """
    kept: list[str] = []
    floats = with_floats(model, threads, codes=requantize)
    if floats is not None:
        file = bytes(floats.SerializeToString())
        halves = weight_types(floats) & HALVES
        why = Reference(uploaded, given, threads).difference(file, unlike_in_halves if halves else _unlike_of_codes)
        if why is None:
            model, uploaded = floats, file
        else:
            kept.append(f"weights that came quantized stay so, because as floats {why}")
    types = weight_types(model)
    if not types:
        return FloatForm(model, uploaded, False, tuple(kept))
    of_halves = bool(types & HALVES)
    wide = widened(model, types)
    file = bytes(wide.SerializeToString())
    why = Reference(uploaded, given, threads).difference(file, unlike_in_halves if of_halves else unlike)
    if why is None:
        return FloatForm(wide, file, of_halves, tuple(kept))
    names = " and ".join(sorted(TensorProto.DataType.Name(type_).lower() for type_ in types))
    kept.append(f"weights of type {names} stay so, because in float32 {why}")
    return FloatForm(model, uploaded, False, tuple(kept))


def _unlike_of_codes(expected: NDArray[Any], result: NDArray[Any], again: Sequence[NDArray[Any]]) -> str | None:
    """Why `result` is not what a file of codes gives, as it runs or without integer kernels, the last of `again`: their
    sums of products saturate at 16 bits on some processors."""
    why = unlike(expected, result, again)
    return why if why is None or unlike(again[-1], result, again[:1]) is not None else None
