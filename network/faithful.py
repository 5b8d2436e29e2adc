"""Normalisation that changes nothing: what is rewritten is proved (`network.proof`), and undone where it fails.

First everything is tried: the newest opset, constants folded, rules applied. Where an output changes, the rules are
left out, then the folding too; then the same at older opsets, down to the file's own: operators of the newest opset may
mean something else (pooling with `ceil_mode`) or have no kernel in ONNX Runtime (RoiAlign). What stands undone is
written into the network, for the report.

A network of weights in another float type is first brought to float32 (`network.widening`). That it computes the same
then is known up to the rounding of that type alone, and everything else is compared with the network in float32.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from network.batching import Batching, largest_sample
from network.errors import ModelInvalid, NetworkError, NothingToQuantize, NotReproduced, OpsetNotReachable
from network.folding import Folding
from network.graph import Network
from network.interface import free_axes
from network.lengths import at_other_lengths
from network.normalise import from_proto, normalise
from network.observed import observe
from network.onnx_graph import label, opset_of, own_inputs
from network.opset import OLDEST_OPSET, TARGET_OPSET
from network.proof import Arrays, Feed, Reference, feeds, first_change, unlike_in_halves
from network.widening import HALVES, weight_types, widened

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
    uploaded: bytes,
    model: onnx.ModelProto,
    samples: Arrays,
    input_shapes: Mapping[str, tuple[int, ...]],
    threads: int = 1,
    batching: Batching | None = None,
) -> Network:
    """The normalised network, proved to have the outputs of the uploaded file; its values are observed on the largest
    sample, or on the first samples where a call takes several.

    Args:
        uploaded: the file as it came.
        model: what `admit` returned of it.
        samples: an array for each graph input, `[samples, ...]`.
        input_shapes: of one sample, by graph input.
        threads: of ONNX Runtime.
        batching: how samples become calls; None: along the first axis of every input.

    Raises:
        NotReproduced: the outputs change however little is rewritten.
        ModelInvalid: ONNX Runtime does not run the uploaded file, or its opset has no newer form.
        ShapesNotFixed, NothingToQuantize: see `network.normalise.normalise`.
    """
    inputs = own_inputs(model.graph)
    batching = batching or Batching.first_axis(inputs)
    given = feeds(samples, batching)
    given += at_other_lengths(given[0], free_axes(inputs, batching))
    model, uploaded, of_halves, kept = _in_float32(uploaded, model, given, threads)
    reasons = [kept] if kept else []
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
            raise NothingToQuantize(f"{error}; {kept}" if kept else str(error)) from error
        reference = reference or Reference(uploaded, given, threads)
        why = reference.difference(network.proto.SerializeToString())
        if why is None:
            _mark(network, Undone(opset, folding, reasons[0]) if reasons else None)
            observed = observe(network.proto, _largest_call(samples, batching), threads)
            network = from_proto(network.proto, network.sample_shapes, batching, observed)
            return replace(network, of_halves=of_halves)
        reasons.append(why)
    if network is None and refused is not None:
        raise refused
    raise NotReproduced(_text(model, network, given[0], reasons[0], threads))


def _in_float32(
    uploaded: bytes, model: onnx.ModelProto, given: Sequence[Feed], threads: int
) -> tuple[onnx.ModelProto, bytes, bool, str]:
    """The model that computes in float32, its bytes, whether its weights had 16 bits; or what came, and why it is."""
    types = weight_types(model)
    if not types:
        return model, uploaded, False, ""
    of_halves = bool(types & HALVES)
    wide = widened(model, types)
    file = bytes(wide.SerializeToString())
    why = Reference(uploaded, given, threads).difference(file, unlike_in_halves if of_halves else None)
    if why is not None:
        names = " and ".join(sorted(onnx.TensorProto.DataType.Name(type_).lower() for type_ in types))
        return model, uploaded, False, f"its weights of type {names} stay so, because in float32 {why}"
    return wide, file, of_halves, ""


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
