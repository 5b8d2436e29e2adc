"""Names, order, types and shapes of what goes in and out, and which weights each output is computed from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from onnx import ModelProto, TensorProto, ValueInfoProto

from network.onnx_graph import names_read, own_inputs, shape_of
from quantization.inspection.findings import Finding, defect, note, warning
from quantization.inspection.matching import Match
from quantization.inspection.weights import Weight


def interface_differences(before: ModelProto, after: ModelProto) -> Iterator[Finding]:
    """Between two files."""
    yield from _compared("input", own_inputs(before.graph), own_inputs(after.graph))
    yield from _compared("output", list(before.graph.output), list(after.graph.output))


def _compared(kind: str, before: Sequence[ValueInfoProto], after: Sequence[ValueInfoProto]) -> Iterator[Finding]:
    code = "interface_differs"
    wanted, got = [value.name for value in before], [value.name for value in after]
    if wanted != got:
        what = "the same in another order" if sorted(wanted) == sorted(got) else "others"
        yield defect(
            code,
            ", ".join(got),
            f"the {kind}s are {', '.join(got)}; expected {', '.join(wanted)}: {what}; keep names and order",
        )
    values = {value.name: value for value in after}
    for value in before:
        if value.name not in values:
            continue
        other = values[value.name]
        types = (value.type.tensor_type.elem_type, other.type.tensor_type.elem_type)
        if all(types) and types[0] != types[1]:
            names = [TensorProto.DataType.Name(number).lower() for number in types]
            yield warning(
                code, value.name, f"the {kind} is of type {names[1]}; expected {names[0]}: callers must convert"
            )
        was, now = shape_of(value), shape_of(other)
        if was is None or now is None:
            continue
        if len(was) != len(now) or any(a != b for a, b in zip(was, now, strict=True) if a and b):
            yield defect(code, value.name, f"the {kind} has shape {now}; expected {was}: export it again")
        elif any(a is None and b is not None for a, b in zip(was, now, strict=True)):
            text = f"the {kind} is fixed to shape {now}; the float network leaves axes of {was} open"
            yield note(code, value.name, text)


def exchanged_outputs(before: ModelProto, after: ModelProto, pairs: Sequence[Match]) -> Iterator[Finding]:
    """Outputs that are computed from the weights of another output, by the weights that are matched."""
    in_main = [pair for pair in pairs if not pair.float.path and not pair.quantized.path]
    wanted = _weights_behind(before, [pair.float for pair in in_main])
    got = _weights_behind(after, [pair.quantized for pair in in_main])
    both = [name for name in wanted if name in got]
    # exchanged: the same sets of weights behind the outputs, in another order
    is_permuted = sorted(sorted(wanted[name]) for name in both) == sorted(sorted(got[name]) for name in both)
    for name in both:
        if wanted[name] == got[name]:
            continue
        other = next((n for n in both if n != name and wanted[n] == got[name]), None)
        if is_permuted and other is not None:
            yield defect(
                "interface_differs",
                name,
                f"the output is computed from the weights of the output {other} of the float network: they are "
                "exchanged; give each its own name",
            )
        elif missing := wanted[name] - got[name]:
            first = in_main[min(missing)].float.name
            yield warning(
                "interface_differs",
                name,
                f"the output no longer depends on {len(missing)} of {len(wanted[name])} weights, among them {first}",
            )


def _weights_behind(model: ModelProto, weights: Sequence[Weight]) -> dict[str, frozenset[int]]:
    """For each output the numbers of the weights that it is computed from."""
    by_reader: dict[str, set[int]] = {}
    for number, weight in enumerate(weights):
        for reader in weight.readers:
            by_reader.setdefault(reader, set()).add(number)
    behind: dict[str, frozenset[int]] = {}
    for node in model.graph.node:  # valid graphs are in order
        own = by_reader.get(node.name or next(filter(None, node.output), ""), set())
        total = frozenset(own).union(*(behind.get(name, frozenset()) for name in names_read(node)))
        behind.update((name, total) for name in node.output if name)
    return {value.name: behind.get(value.name, frozenset()) for value in model.graph.output}


def vectors(model: ModelProto) -> Mapping[str, TensorProto]:
    """One-dimensional float tensors of the main graph by name."""
    return {
        t.name: t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT and max(t.dims, default=0) > 1
    }
