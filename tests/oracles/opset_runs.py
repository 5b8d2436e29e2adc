"""Node tests on their way to the newest opset and back: each comes out as it was, or is refused with the reason."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx

from network.errors import NetworkError, NotReproduced, OpsetNotReachable
from network.faithful import faithful
from network.graph import Network
from network.opset import lower
from network.proof import Reference
from network.training import require_inference
from tests.oracles.node_networks import Inputs, NodeNetwork, network_of
from tests.oracles.node_tests import Case, Kind, Outcome


def outcomes(case: Case, inputs: Iterable[Inputs] = Inputs, opsets: Sequence[int] = ()) -> list[Outcome]:
    """Of the normalisation of the networks of a test, and of lowering them to each of `opsets` below their own; what is
    refused, by ONNX Runtime too, is unsupported."""
    found = []
    for way in inputs:
        network = network_of(case, way)
        if network is None:
            continue  # it is no network of numbers
        name = f"{case.name} {way.value}"
        normalised, outcome = run_normalisation(name, network)
        found.append(outcome)
        below = [opset for opset in opsets if normalised is not None and opset < normalised.opset]
        if normalised is not None and below:
            reference = Reference(network.model.SerializeToString(), [network.feed], 1)
            found += [run_lowering(name, network, normalised, opset, reference) for opset in below]
    return found


def run_normalisation(name: str, network: NodeNetwork) -> tuple[Network | None, Outcome]:
    """The normalised network, where there is one, and what became of it."""
    name += ", normalised"
    data = network.model.SerializeToString()
    samples = {key: array[None] for key, array in network.feed.arrays.items()}
    try:
        require_inference(network.model)
        normalised = faithful(data, network.model, samples, network.shapes, 1, network.batching)
    except NotReproduced as error:
        return None, Outcome(name, Kind.WRONG, str(error))
    except NetworkError as error:
        return None, Outcome(name, Kind.UNSUPPORTED, str(error))
    except Exception as error:
        return None, Outcome(name, Kind.FOREIGN, repr(error))
    text = _other_interface(network.model, normalised.proto)
    return normalised, Outcome(name, Kind.WRONG if text else Kind.RIGHT, text)


def run_lowering(name: str, network: NodeNetwork, normalised: Network, opset: int, reference: Reference) -> Outcome:
    """What became of the normalised network at an older opset; `reference` is the network as it was."""
    name += f", lowered to {opset}"
    lowered = onnx.ModelProto.FromString(normalised.proto.SerializeToString())
    try:
        lower(lowered, opset)
    except OpsetNotReachable as error:
        return Outcome(name, Kind.UNSUPPORTED, str(error))
    except Exception as error:
        return Outcome(name, Kind.FOREIGN, repr(error))
    text = reference.difference(lowered.SerializeToString()) or _other_interface(network.model, lowered)
    return Outcome(name, Kind.WRONG if text else Kind.RIGHT, text)


def _other_interface(uploaded: onnx.ModelProto, other: onnx.ModelProto) -> str:
    """In what the declared interface differs; nothing of what the uploaded file does not declare."""
    for one, two in (
        (uploaded.graph.input, other.graph.input),
        (uploaded.graph.output, other.graph.output),
    ):
        for value, new in zip(one, two, strict=True):
            types = value.type.tensor_type.elem_type, new.type.tensor_type.elem_type
            if value.name != new.name or types[0] not in (0, types[1]):
                return f"{value.name!r} of type {types[0]} is {new.name!r} of type {types[1]}"
            if (axes := _axes(value)) is not None and axes != _axes(new):
                return f"the axes of {value.name!r} are {_axes(new)} in place of {axes}"
    return ""


def _axes(value: onnx.ValueInfoProto) -> list[int | str | None] | None:
    """Lengths or symbols; an axis of length 0 may become a free one."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return [dim.dim_value or dim.dim_param or None for dim in tensor.shape.dim]
