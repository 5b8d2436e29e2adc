"""Any quantized ONNX file against its float network: what it stores, how far that is from the float weights, and what
is wrong with it. Nothing is run on samples; what only samples show (stale ranges of activations) is for the metrics.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper

from network.onnx_graph import is_external, messages
from quantization.errors import FileNotAudited, FileNotInspected
from quantization.export.audit import audit
from quantization.formats import CodebookFormat, HadamardFormat, PowerFormat, ScaledFormat
from quantization.inspection.biases import wrong_bias
from quantization.inspection.closeness import Closeness, closeness, wrong_values
from quantization.inspection.copies import all_bytes, float_bytes, stays_float, stored_twice
from quantization.inspection.equalization import Rescaled, compensated
from quantization.inspection.findings import Finding, note, warning
from quantization.inspection.interface import exchanged_outputs, interface_differences, vectors
from quantization.inspection.kernels import Kernels, kernels, slow_kernels
from quantization.inspection.matching import Match, match
from quantization.inspection.ranges import ActivationRange, activation_ranges, wrong_ranges
from quantization.inspection.scopes import without_functions
from quantization.inspection.weights import StoredAs, Weight, weights_of
from quantization.storage.unpacking import DOMAIN

_UNUSED_BITS = 3


@dataclass(frozen=True, slots=True)
class InspectedWeight:
    """A float weight, how the quantized file stores it, and how close that is.

    `quantized_name` and all behind it are None where no weight of the file stands for it. `matched_by` is name, values
    or order; `is_equalized` says that it was rescaled with its neighbours, which leaves the network what it was.
    """

    name: str
    kind: str
    node: str
    path: str
    shape: tuple[int, int]
    quantized_name: str | None
    matched_by: str | None
    stored: StoredAs | None
    closeness: Closeness | None
    is_equalized: bool = False


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a quantized file is; `float_share` is the share of the bytes of its tensors that are weights in float32."""

    weights: tuple[InspectedWeight, ...]
    unmatched: tuple[str, ...]
    activations: tuple[ActivationRange, ...]
    kernels: Kernels
    findings: tuple[Finding, ...]
    float_bytes: int
    quantized_bytes: int
    float_share: float


def inspect(float_model: ModelProto, quantized_model: ModelProto) -> Inspection:
    """Read `quantized_model` against `float_model`; both are left as they are.

    Raises:
        FileNotInspected: ONNX Runtime does not load the quantized file, or its values lie outside of it.
    """
    _check_whole(quantized_model)
    runs = kernels(quantized_model)
    before, after = without_functions(float_model), without_functions(quantized_model)
    floats, _ = weights_of(before)
    quantized, unreadable = weights_of(after)
    quantized = _with_formats(quantized_model, quantized)
    pairs = match(floats, quantized)
    ranges = activation_ranges(after)
    total = all_bytes(after)
    close = {pair.float.position: closeness(pair) for pair in pairs}
    judged, equalized = _judged(pairs, close, before, after)
    findings: list[Finding] = [*interface_differences(before, after), *exchanged_outputs(before, after, pairs), *judged]
    findings += stored_twice(before, after, pairs)
    findings += stays_float(floats, quantized, pairs, total)
    findings += wrong_ranges(after, ranges)
    matched = {id(pair.float) for pair in pairs} | {id(pair.quantized) for pair in pairs}
    unmatched = [weight.name for weight in quantized if id(weight) not in matched]
    findings += _unmatched([f.name for f in floats if id(f) not in matched], unmatched, unreadable)
    findings += slow_kernels(runs)
    by_float = {id(pair.float): pair for pair in pairs}
    plain = float_bytes(w for w in quantized if w.stored.stored_bits >= 32)
    return Inspection(
        weights=tuple(_inspected(f, by_float.get(id(f)), close, f.position in equalized) for f in floats),
        unmatched=tuple(unmatched),
        activations=tuple(ranges),
        kernels=runs,
        findings=tuple(findings),
        float_bytes=float_model.ByteSize(),
        quantized_bytes=quantized_model.ByteSize(),
        float_share=plain / max(total, 1),
    )


def _judged(
    pairs: Sequence[Match], close: Mapping[int, Closeness], before: ModelProto, after: ModelProto
) -> tuple[list[Finding], Mapping[int, Rescaled]]:
    """What is wrong with matched weights and their biases, and which weights are equalized, by position."""
    wrong = {p.float.position: f for p in pairs if (f := wrong_values(p, close[p.float.position])) is not None}
    suspects = [pair for pair in pairs if pair.float.position in wrong]
    equalized = compensated(suspects, len(pairs), _vectors(before), _vectors(after))
    findings: list[Finding] = []
    for pair in pairs:
        place = pair.float.position
        fit = equalized.get(place)
        if place in wrong and fit is None:
            findings.append(wrong[place])
        if (finding := wrong_bias(pair, close[place], fit.rows if fit is not None else None)) is not None:
            findings.append(finding)
        findings += _unused(pair)
    return findings, equalized


def _check_whole(model: ModelProto) -> None:
    """No values outside of the file: ONNX Runtime would read whatever path it names."""
    outside = [m.name for m in messages(model) if isinstance(m, TensorProto) and is_external(m)]
    if outside:
        raise FileNotInspected(
            f"{len(outside)} tensors have their values outside of the quantized file, among them {outside[0]}; save it "
            "as one file, with onnx.save_model(..., save_as_external_data=False)"
        )


def _inspected(
    weight: Weight, pair: Match | None, close: Mapping[int, Closeness], is_equalized: bool
) -> InspectedWeight:
    rows, columns = weight.values.shape
    head = (weight.name, weight.kind, weight.node, weight.path, (rows, columns))
    if pair is None:
        return InspectedWeight(*head, None, None, None, None)
    return InspectedWeight(
        *head, pair.quantized.name, pair.by, pair.quantized.stored, close[weight.position], is_equalized
    )


def _unused(pair: Match) -> Iterator[Finding]:
    stored = pair.quantized.stored
    if not stored.is_float and stored.stored_bits - stored.used_bits >= _UNUSED_BITS:
        yield warning(
            "unused_codes",
            pair.float.name,
            f"stores {stored.stored_bits:g} bits and uses {stored.used_bits:g}: its codes fit into a smaller type",
        )


def _unmatched(floats: list[str], quantized: list[str], unreadable: list[str]) -> Iterator[Finding]:
    if floats:
        names = ", ".join(floats[:5])
        yield note("unmatched_weight", names, f"{len(floats)} weights of the float network have no counterpart")
    if quantized:
        names = ", ".join(quantized[:5])
        yield note("unmatched_weight", names, f"{len(quantized)} weights of the quantized file have no counterpart")
    if unreadable:
        text = f"{len(unreadable)} weights are stored in a way that is not understood; they are not compared"
        yield warning("unreadable_weight", ", ".join(unreadable[:5]), text)


def _vectors(model: ModelProto) -> dict[str, NDArray[np.float64]]:
    return {
        name: np.asarray(numpy_helper.to_array(tensor), dtype=np.float64).ravel()
        for name, tensor in vectors(model).items()
    }


def _with_formats(model: ModelProto, weights: list[Weight]) -> list[Weight]:
    """Weights of our own packed files with the widths that their audit reads."""
    if not any(function.domain == DOMAIN for function in model.functions):
        return weights
    try:
        stored = {weight.name: weight for weight in audit(model.SerializeToString()).weights}
    except FileNotAudited:
        return weights
    named: list[Weight] = []
    for weight in weights:
        own = stored.get(weight.value)
        if own is None or weight.stored.is_float:
            named.append(weight)
            continue
        is_grid = not isinstance(own.format, CodebookFormat | PowerFormat | HadamardFormat)
        granularity = (
            own.format.granularity.value if isinstance(own.format, ScaledFormat) else weight.stored.granularity
        )
        as_stored = replace(
            weight.stored,
            element_type=own.format.name,
            stored_bits=float(own.bits),
            used_bits=float(own.bits),
            granularity=granularity,
            size_bytes=own.size_bytes,
            scale_bytes=own.scale_bytes,
        )
        named.append(replace(weight, name=own.name, stored=as_stored, step=weight.step if is_grid else None))
    return named
