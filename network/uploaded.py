"""An uploaded network that is only run, as it is: any operator that ONNX Runtime has, no rule of ours on its weights.

Nothing is inlined, folded or renamed, so that what is measured is what was sent.
"""

from __future__ import annotations

import onnx
from onnx import ModelProto

from network.admission import AdmissionLimits, bounded, check_interface, check_memory, onnx_errors
from network.batching import Batching
from network.einsum import check_ellipses
from network.errors import InterfaceDiffers, listing
from network.graph import Network
from network.onnx_graph import shape_of
from network.operator_sets import check_operators, check_random
from network.output_types import declare_outputs
from network.tensor_spec import TensorSpec, input_specs


def admit_to_run(data: bytes, limits: AdmissionLimits) -> ModelProto:
    """The model in `data`, bounded, of operators that ONNX Runtime or the file itself defines; the types of its outputs
    are declared.

    Raises:
        NotOnnx, ModelTooLarge, TooMuchWork, ExternalData, ModelInvalid, RandomOperators, ShapesNotFixed: as
            `network.admission.admit`.
        CustomOperators: operators that nobody defines.
    """
    model = bounded(data, limits)
    check_random(model)
    check_operators(model)
    check_memory(model, limits.max_memory_bytes)
    with onnx_errors("shape inference"):
        check_ellipses(model)
    with onnx_errors("inferring the types of the outputs"):
        declare_outputs(model)
    check_interface(model)
    return model


def as_uploaded(model: ModelProto, batching: Batching) -> Network:
    """The network of an admitted file, without any site that could be decided on."""
    declare_outputs(model)
    return Network(model, input_specs(model), output_specs(model), (), batching=batching)


def output_specs(model: ModelProto) -> tuple[TensorSpec, ...]:
    """What comes out of an admitted model; an axis that the file leaves open is `None`."""
    specs = []
    for value in model.graph.output:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        specs.append(TensorSpec(value.name, dtype.name, tuple(length or None for length in shape_of(value) or ())))
    return tuple(specs)


def check_takes(quantized: ModelProto, inputs: dict[str, tuple[str, tuple[int, ...]]], batching: Batching) -> None:
    """Refuse a quantized file that cannot be fed what its float network is fed.

    Args:
        inputs: by name, the type and the shape of one sample, without its sample axis.
        batching: which axis that is, in both.

    Raises:
        InterfaceDiffers: other names, types or shapes.
    """
    specs = {spec.name: spec for spec in input_specs(quantized)}
    remedy = "both are fed the same samples: export the quantized file with the inputs of the float model"
    if set(specs) != set(inputs):
        raise InterfaceDiffers(
            f"the quantized file takes the inputs {listing(list(specs))}, the float model {listing(list(inputs))}; "
            f"{remedy}"
        )
    for name, (dtype, shape) in inputs.items():
        spec = specs[name]
        if spec.dtype != dtype:
            raise InterfaceDiffers(
                f"the input {name!r} of the quantized file takes {spec.dtype}, that of the float model {dtype}; "
                f"{remedy}"
            )
        taken = batching.sample_shape(name, spec.shape)
        if len(taken) != len(shape) or any(fixed not in (None, own) for fixed, own in zip(taken, shape, strict=True)):
            raise InterfaceDiffers(
                f"the input {name!r} of the quantized file has the shape {_shape(spec.shape)}, of which a sample is "
                f"{_shape(taken)}, and the samples that the float model takes are {_shape(shape)}; {remedy}, or send "
                "samples that both take"
            )


def _shape(shape: tuple[int | None, ...]) -> str:
    return "[" + ", ".join("any" if length is None else str(length) for length in shape) + "]"
