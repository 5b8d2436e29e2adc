"""What a file stores twice, and what it stores as floats."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from onnx import ModelProto, TensorProto

from network.onnx_graph import graphs, names_read
from quantization.inspection.findings import Finding, defect, note, warning
from quantization.inspection.matching import Match
from quantization.inspection.weights import Weight, duplicates, tensor_bytes

_LEAST_BYTES = 256
_MOST_FLOAT = 0.5


def all_bytes(model: ModelProto) -> int:
    """What the tensors of all graphs take."""
    return sum(tensor_bytes(tensor) for graph in graphs(model.graph) for tensor in graph.initializer)


def stored_twice(before: ModelProto, after: ModelProto, pairs: Sequence[Match]) -> Iterator[Finding]:
    """Tensors of the quantized file that it could do without."""
    code = "float_copy"
    named: set[str] = set()
    read = {name for graph in graphs(after.graph) for node in graph.node for name in names_read(node)}
    read |= {value.name for value in after.graph.output}
    kept = {t.name: t for t in before.graph.initializer}
    unread_before = {name for graph in graphs(before.graph) for node in graph.node for name in names_read(node)}
    for tensor in after.graph.initializer:
        size = tensor_bytes(tensor)
        if tensor.name in read or size < _LEAST_BYTES or (tensor.name in kept and tensor.name not in unread_before):
            continue
        named.add(tensor.name)
        text = f"nothing reads these {size:,} bytes; drop the tensor"
        yield defect(code, tensor.name, text)
    quantized = {p.float.name: p for p in pairs if not p.quantized.stored.is_float}
    for tensor in after.graph.initializer:
        pair = quantized.get(tensor.name)
        if pair is None or tensor.name in named or tensor.data_type != TensorProto.FLOAT:
            continue
        if tensor.name not in pair.quantized.stored.tensors and tensor_bytes(tensor) >= _LEAST_BYTES:
            named.add(tensor.name)
            text = f"the weight is stored as {pair.quantized.stored.element_type} and again as float32, "
            shared = len(pair.float.readers) > 1
            if shared:
                yield warning(code, tensor.name, text + "which another node reads: quantize both")
            else:
                yield defect(code, tensor.name, text + "which its network does not need: let all nodes read one")
    twice_before = {first for first, *_ in duplicates(before, _LEAST_BYTES)} | {
        second for _, second, _ in duplicates(before, _LEAST_BYTES)
    }
    origin = {name: p.float for p in pairs for name in p.quantized.stored.tensors}
    tensors = {tensor.name: tensor for tensor in after.graph.initializer}
    for first, second, size in duplicates(after, _LEAST_BYTES):
        sources = {origin[name].name if name in origin else name for name in (first, second)}
        if sources <= twice_before or second in named or not _is_weight(tensors[second]):
            continue
        text = f"the tensor holds the same {size:,} bytes as {first}; keep one, which both nodes read"
        yield defect(code, second, text)


def _is_weight(tensor: TensorProto) -> bool:
    content = tensor.raw_data
    return len(tensor.dims) > 1 and (not content or content.count(content[:1]) < len(content))


def float_bytes(weights: Iterable[Weight]) -> int:
    """What these weights take as floats, each tensor once."""
    return sum({w.stored.tensors: w.stored.size_bytes for w in weights if w.stored.is_float}.values())


def stays_float(
    before: Sequence[Weight], after: Sequence[Weight], pairs: Sequence[Match], total: int
) -> Iterator[Finding]:
    """Weights that take float bytes in the quantized file."""
    code = "stays_float"
    plain = [w for w in after if w.stored.is_float and w.stored.stored_bits >= 32]
    rounded = [w for w in plain if w.stored.granularity]
    plain = [w for w in plain if not w.stored.granularity]
    if not any(not w.stored.is_float or w.stored.stored_bits < 32 or w.stored.granularity for w in after):
        if before:
            yield defect(code, "", "no weight is quantized: all are stored as float32; quantize the file")
        return
    if rounded:
        size = float_bytes(rounded)
        yield warning(
            code,
            rounded[0].name,
            f"{len(rounded)} weights are stored as float32 ({size / max(total, 1):.0%} of the bytes) and rounded when "
            "the file is loaded: it is as large as the float one; store their codes",
        )
    done = {w.kind for w in after if not w.stored.is_float}
    from_float = {id(p.quantized) for p in pairs}
    left = [w for w in plain if w.kind in done and not w.path and id(w) in from_float]
    share = float_bytes(left) / max(total, 1)
    if share > _MOST_FLOAT:
        yield defect(
            code,
            ", ".join(w.name for w in left[:5]),
            f"{len(left)} weights stay float32, {share:.0%} of the bytes, while others of their kinds "
            f"({', '.join(sorted({w.kind for w in left}))}) are quantized; quantize them too",
        )
    if plain:
        share = float_bytes(plain) / max(total, 1)
        names = ", ".join(w.name for w in sorted(plain, key=lambda w: -w.stored.size_bytes)[:5])
        yield note(code, names, f"{len(plain)} weights stay float32: {share:.0%} of the bytes")
