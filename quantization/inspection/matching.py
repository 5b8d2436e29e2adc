"""Which weight of the quantized file stands for which of the float network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantization.inspection.weights import Weight, is_made_up

Floats = NDArray[np.float64]

# of the cosine between two weights: what is above is the same weight however it was rounded
_CLOSE = 0.8


@dataclass(frozen=True, slots=True, eq=False)
class Match:
    """`by` is name, values or order. The values compare on one `basis`: with what is multiplied behind the layers
    (`tail`, so that a folded BatchNorm is the same as one that is not) or as they are stored (`stored`)."""

    float: Weight
    quantized: Weight
    by: str
    basis: str

    @property
    def values(self) -> tuple[Floats, Floats]:
        """Of both, `[rows, columns]`."""
        return _on(self.float, self.basis), _on(self.quantized, self.basis)

    @property
    def step(self) -> Floats | None:
        step, tail = self.quantized.step, self.quantized.tail
        if step is None or self.basis == "stored" or tail is None:
            return step
        return step * np.abs(tail.factor)[:, None]

    @property
    def shifts(self) -> tuple[Floats, Floats] | None:
        """The biases `[rows]` of both."""
        tails = (self.float.tail, self.quantized.tail)
        if tails[0] is None or tails[1] is None:
            return None
        if self.basis == "stored":
            return tails[0].own_shift, tails[1].own_shift
        return tails[0].shift, tails[1].shift


def match(floats: Sequence[Weight], quantized: Sequence[Weight]) -> list[Match]:
    """Pairs, each weight in at most one: by name, else by values, else by their order among those of one shape."""
    pairs: list[Match] = []
    open_f, open_q = list(floats), list(quantized)

    def take(found: Iterable[tuple[Weight, Weight]], by: str) -> None:
        for f, q in found:
            if f in open_f and q in open_q:
                pairs.append(Match(f, q, by, _basis(f, q)))
                open_f.remove(f)
                open_q.remove(q)

    take(_named(open_f, open_q, lambda name: not is_made_up(name.lstrip(">"))), "name")
    # an exporter's numbers count where the values agree, or where weight and node have the same ones
    take([(f, q) for f, q in _named(open_f, open_q, is_made_up) if _cosine(f, q) > _CLOSE or _same_keys(f, q)], "name")
    take(_close(open_f, open_q), "values")
    take(_ordered(open_f, open_q), "order")
    return sorted(pairs, key=lambda pair: pair.float.position)


def _alike(f: Weight, q: Weight) -> bool:
    return f.values.shape == q.values.shape and (f.kind == q.kind or {f.kind, q.kind} <= {"Conv", "MatMul"})


def _same_keys(f: Weight, q: Weight) -> bool:
    return len(set(f.keys) & set(q.keys)) > 1


def _named(floats: list[Weight], quantized: list[Weight], takes: Callable[[str], bool]) -> list[tuple[Weight, Weight]]:
    """Weights with a name in common, those with the most first."""
    by_key: dict[str, list[Weight]] = {}
    for q in quantized:
        for key in filter(takes, q.keys):
            by_key.setdefault(key, []).append(q)
    found: list[tuple[int, int, Weight, Weight]] = []
    for number, f in enumerate(floats):
        candidates = {id(q): q for key in filter(takes, f.keys) for q in by_key.get(key, []) if _alike(f, q)}
        for q in candidates.values():
            # the name of the weight says more than that of what its node makes
            shared = [key for key in f.keys if key in q.keys and takes(key)]
            found.append((-sum(1 if key.startswith(">") else 2 for key in shared), number, f, q))
    return [(f, q) for *_, f, q in sorted(found, key=lambda entry: entry[:2])]


def _close(floats: list[Weight], quantized: list[Weight]) -> list[tuple[Weight, Weight]]:
    pairs = [(_cosine(f, q), f, q) for f in floats for q in quantized if _alike(f, q)]
    best = sorted((pair for pair in pairs if pair[0] > _CLOSE), key=lambda pair: -pair[0])
    return [(f, q) for _, f, q in best]


def _ordered(floats: list[Weight], quantized: list[Weight]) -> list[tuple[Weight, Weight]]:
    """By order, where each file has as many of one kind and shape."""
    found: list[tuple[Weight, Weight]] = []
    for shape, kind in dict.fromkeys((f.values.shape, f.kind) for f in floats):
        of_f = [f for f in floats if f.values.shape == shape and f.kind == kind]
        of_q = [q for q in quantized if q.values.shape == shape and q.kind == kind]
        if len(of_f) == len(of_q):
            found.extend(zip(of_f, of_q, strict=True))
    return found


def _on(weight: Weight, basis: str) -> Floats:
    if basis == "stored" or weight.tail is None:
        return weight.values
    return weight.values * weight.tail.factor[:, None]


def _basis(f: Weight, q: Weight) -> str:
    """With tails, unless one of them could not be followed to its end and the stored values are closer."""
    if f.tail is None or q.tail is None or not (f.tail.is_open or q.tail.is_open):
        return "tail"
    return "tail" if _distance(f, q, "tail") <= _distance(f, q, "stored") else "stored"


def _distance(f: Weight, q: Weight, basis: str) -> float:
    a, b = _on(f, basis), _on(q, basis)
    return float(np.linalg.norm(a - b) / max(float(np.linalg.norm(a)), 1e-30))


def _cosine(f: Weight, q: Weight) -> float:
    return max(cosine(_on(f, basis), _on(q, basis)) for basis in ("tail", "stored"))


def cosine(a: Floats, b: Floats) -> float:
    """Between two arrays as vectors, 0 where one of them is 0."""
    lengths = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    return float(np.vdot(a, b)) / lengths if lengths > 0 else 0.0
