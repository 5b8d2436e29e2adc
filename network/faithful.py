"""Normalisation that changes nothing: what is rewritten is proved (`network.proof`), and undone where it fails.

First everything is tried: the newest opset, constants folded, rules applied. Where an output changes, the rules are
left out, then the folding too; then the same at older opsets, down to the file's own: operators of the newest opset may
mean something else (pooling with `ceil_mode`) or have no kernel in ONNX Runtime (RoiAlign). What stands undone is
written into the network, for the report.

Weights in another form than float32 are first brought to it (`network.float_form`), and everything else is compared
with that network.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx

from network.batching import Batching, largest_sample
from network.errors import ModelInvalid, NetworkError, NothingToQuantize, NotReproduced, OpsetNotReachable
from network.float_form import in_float32
from network.folding import Folding
from network.graph import Network
from network.interface import free_axes
from network.lengths import at_other_lengths
from network.normalise import from_proto, normalise
from network.observed import observe
from network.onnx_graph import label, opset_of, own_inputs
from network.opset import OLDEST_OPSET, TARGET_OPSET
from network.proof import Arrays, Feed, Reference, feeds, first_change
from network.quantized_weights import stored_codes

MARK = "bitbudget.undone"
"""The metadata that says what was not rewritten; a network that was rewritten as usual has none."""

_WIDELY_RUN_OPSET = 21
"""The last before most operators got another version, which ONNX Runtime has no kernels for in some; with int4."""


@dataclass(frozen=True, slots=True)
class Undone:
    """How a network was normalised other than usual: at which opset, with how much folding, and why."""

    opset: int
    folding: Folding
    why: str


def faithful(
    uploaded: bytes | Path,
    model: onnx.ModelProto,
    samples: Arrays,
    input_shapes: Mapping[str, tuple[int, ...]],
    threads: int = 1,
    batching: Batching | None = None,
    *,
    requantize: bool = False,
) -> Network:
    """The normalised network, proved to have the outputs of the uploaded file; its values are observed on the largest
    sample, or on the first samples where a call takes several.

    Args:
        uploaded: the file as it came, or its bytes.
        model: what `admit` returned of it.
        samples: an array for each graph input, `[samples, ...]`.
        input_shapes: of one sample, by graph input.
        threads: of ONNX Runtime.
        batching: how samples become calls; None: along the first axis of every input.
        requantize: whether weights that came quantized are planned anew (`network.codes`).

    Raises:
        NotReproduced: the outputs change however little is rewritten.
        ModelInvalid: ONNX Runtime does not run the uploaded file, or its opset has no newer form.
        ShapesNotFixed, NothingToQuantize: see `network.normalise.normalise`.
    """
    inputs = own_inputs(model.graph)
    batching = batching or Batching.first_axis(inputs)
    given = feeds(samples, batching)
    given += at_other_lengths(given[0], free_axes(inputs, batching))
    planned = in_float32(uploaded, model, given, threads, requantize=requantize)
    model, reasons = planned.model, list(planned.kept)
    reference: Reference | None = None
    network: Network | None = None
    refused: NetworkError | None = None
    for opset, folding in _ladder(opset_of(model)):
        try:
            network = normalise(model, input_shapes, opset, converted=opset, folding=folding, batching=batching)
        except (ModelInvalid, OpsetNotReachable) as error:
            reasons.append(str(error))
            refused = refused or error
            continue
        except NothingToQuantize as error:
            raise NothingToQuantize("; ".join([str(error), *planned.kept, *_quantized(model)])) from error
        reference = reference or Reference(planned.file, given, threads)
        why = reference.difference(network.proto)
        if why is None:
            _mark(network, Undone(opset, folding, reasons[0]) if reasons else None)
            observed = observe(network.proto, _largest_call(samples, batching), threads)
            network = from_proto(network.proto, network.sample_shapes, batching, observed)
            return replace(network, of_halves=planned.of_halves)
        reasons.append(why)
    if network is None and refused is not None:
        raise refused
    raise NotReproduced(_text(model, network, given[0], reasons[0], threads))


def _quantized(model: onnx.ModelProto) -> list[str]:
    """What to do with a model whose weights came quantized, if they did."""
    size = sum(codes.size_bytes for codes in stored_codes(model.graph))
    return [f"weights of {size:,} bytes came quantized: weights.requantize plans them anew"] if size else []


def _largest_call(samples: Arrays, batching: Batching) -> Arrays:
    """The inputs of a call of the largest sample, or of the first samples where a call takes several."""
    if batching.size is not None and batching.size > 1:
        rows = np.arange(batching.size) % len(next(iter(samples.values())))
    else:
        rows = np.array([largest_sample(samples)])
    return batching.call({name: array[rows] for name, array in samples.items()})


def undone(network: Network) -> Undone | None:
    """What was not rewritten of a network that `faithful` made; None where everything was, as usual."""
    for entry in network.proto.metadata_props:
        if entry.key == MARK:
            said = json.loads(entry.value)
            return Undone(said["opset"], Folding[said["folding"]], said["why"])
    return None


def _ladder(own: int) -> Iterator[tuple[int, Folding]]:
    older = (own,) if own > _WIDELY_RUN_OPSET else (_WIDELY_RUN_OPSET, max(own, OLDEST_OPSET))
    for opset in dict.fromkeys((TARGET_OPSET, *older)):
        for folding in sorted(Folding, reverse=True):
            yield opset, folding


def _mark(network: Network, what: Undone | None) -> None:
    """In place of what the uploaded file may say of itself."""
    entries = network.proto.metadata_props
    for entry in [entry for entry in entries if entry.key == MARK]:
        entries.remove(entry)
    if what is not None:
        said = {"opset": what.opset, "folding": what.folding.name, "why": what.why}
        entries.add(key=MARK, value=json.dumps(said, sort_keys=True))


def _text(model: onnx.ModelProto, network: Network | None, feed: Feed, why: str, threads: int) -> str:
    """Of the last network that was tried, in which the least is rewritten."""
    node = first_change(model, network.proto, feed, threads) if network is not None else None
    where = f"; the first node whose values change is {label(node)!r} ({node.op_type})" if node is not None else ""
    return (
        f"the network cannot be brought to a newer opset without changing its outputs: {why}{where}. Export it in "
        f"another way, or with opset {TARGET_OPSET}"
    )
