"""The parts that libraries make of their work (`sensitivity.parts`), each a chunk of the running stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from pipeline.context import Context
from pipeline.results import pack, unpack
from sensitivity.parts import Part, Spread


def part_chunks(context: Context, prefix: str = "") -> Spread:
    """What gives the parts; `prefix` of their names says whose parts they are."""

    def spread(names: Sequence[str], compute: Callable[[int], Part], ahead: int | None = None) -> Iterator[Part]:
        chunks = [prefix + name for name in names]
        for blob in context.spread(chunks, lambda place: pack({}, dict(compute(place))), ahead):
            yield unpack(blob)[1]

    return spread
