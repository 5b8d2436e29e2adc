"""Bit operations of a delivered file, counted from the shapes of a real run, beside those that its plan tells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import onnx

from benchmarks.networks.entry import Arrays, Network
from benchmarks.networks.running import batch_of, feeds_of, groups_of, session_of
from tests.oracles.bit_operations import Product, products

PASSING = frozenset({"Transpose", "Reshape", "Identity", "Cast", "Squeeze", "Unsqueeze", "Slice", "Split", "Flatten"})
"""Operators behind which a weight still is a weight."""


@dataclass(frozen=True)
class Run:
    """The products of one call, and its samples: one, or as many as the network fixes its batch to."""

    products: list[Product]
    samples: int


def wrong_rows(file: Network, delivered: bytes, plan: Mapping[str, Any]) -> list[str]:
    """The layers whose bit operations of one sample are not what a run has, one text for each.

    Counted on the first sample that the job got, as the plan says it is: lengths may follow from values. Where samples
    have several lengths, those of any of them are right. Layers in the bodies of If, Loop and Scan are
    not counted: their values cannot be outputs.
    """
    model = onnx.load_model_from_string(delivered)
    for index, node in enumerate(model.graph.node):
        node.name = f"node {index}"
    runs = [_run(file, model, arrays) for arrays in groups_of(file.samples).values()]
    texts = []
    for row in plan["layers"]:
        uses = list(_uses(model.graph, row["weight"], len(row["shape"])))
        counts = [count for run in runs if (count := _count(uses, run)) is not None]
        counted = [count * row["bits"] * row["input_bits"] for count in counts]
        if counted and row["bit_operations"] not in counted:
            texts.append(f"{row['weight']}: {row['bit_operations']:,} bit operations, counted {counted[0]:,.0f}")
    return texts


def _run(file: Network, model: onnx.ModelProto, arrays: Arrays) -> Run:
    session = session_of(model.SerializeToString())
    feed = next(feeds_of(session, arrays, file.batch_axes))
    return Run(products(model, feed), batch_of(session, file.batch_axes))


def _uses(graph: onnx.GraphProto, name: str, rank: int) -> Iterator[tuple[onnx.NodeProto, str]]:
    """The nodes that compute with a weight, and the name under which they read it.

    Gather picks whole matrices from a table of three axes or more; from a table of two it copies rows, which multiplies
    nothing.
    """
    for node in graph.node:
        if name in node.input:
            passes = node.op_type in PASSING or (node.op_type == "Gather" and rank > 2)
            if not passes:
                yield node, name
            elif name == node.input[0]:
                for output in node.output:
                    yield from _uses(graph, output, rank)


def _count(uses: list[tuple[onnx.NodeProto, str]], run: Run) -> float | None:
    """Multiply-accumulates of a weight for one sample; None where it has no use, or one that is not counted."""
    total = 0
    for node, name in uses:
        if node.op_type == "Gather":
            continue
        here = [p.macs for p in run.products if p.node == node.name and name in p.operands]
        if not here:
            return None
        total += sum(here)
    return total / run.samples if uses else None
