"""The certified file read back: that it stores what the plan says, and computes what the plan, simulated, computes.

A file that does not is a fault of ours, and no user gets it.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from evaluation.dataset import Dataset
from evaluation.runner import OnnxRunner
from network.activations import moved_from
from network.errors import ModelNotRunnable
from network.graph import Network
from network.message_size import size_bytes
from network.quantized_weights import stored_codes
from network.selections import picked_from
from network.weight_folder import WeightFolder, in_folder
from pipeline.context import Context
from pipeline.plan_export import ExportedPlan
from pipeline.process import release
from pipeline.workspace import Inputs
from quantization.activations.quantized import QuantizedActivation
from quantization.export.audit import Audit, StoredActivation, audit, rounded_activations
from quantization.export.export import simulated
from quantization.export.products import packed_products
from quantization.formats import FloatFormat, Format

SAMPLES = 64
# bytes of the float network
DECODED_AT_ONCE = 1 << 25
# Float sums in another order differ by rounding alone.
FLOAT_TOLERANCE = 1e-4
Outputs = NDArray[np.generic]
Floats = NDArray[np.float64]


class FileNotAsPlanned(RuntimeError):
    """The file is not what the plan says: a fault of this program."""


def check_file(
    context: Context, inputs: Inputs, model: ExportedPlan, formats: Mapping[str, Format], halves: frozenset[str]
) -> dict[str, Any]:
    """What the file of the plan holds, after it was compared with the plan.

    Args:
        formats: of every site's weight, by initializer name.
        halves: initializers that are no weights and that the file has as float16.

    Raises:
        FileNotAudited: the file cannot be read back.
        FileNotAsPlanned: a weight or an activation is not stored in its format, the sizes do not add up, or the outputs
            are not those of the simulated plan.
    """
    own = {name for name, tensor in model.network.initializers.items() if tensor.data_type != TensorProto.FLOAT}
    contents = audit(model.file, own | {codes.name for codes in stored_codes(model.network.proto.graph)})
    check_stored(contents, model.network, formats, model.activations)
    if contents.total_bytes != len(model.file):
        raise FileNotAsPlanned(f"the audit counts {contents.total_bytes} bytes, and the file has {len(model.file)}")
    return {
        "weights": len(contents.weights),
        "activations": len(contents.activations),
        "codes_bytes": sum(weight.size_bytes for weight in contents.weights),
        "scales_bytes": sum(weight.scale_bytes for weight in contents.weights),
        "total_bytes": contents.total_bytes,
        "outputs": _compared_outputs(context, inputs, model, halves),
    }


def check_stored(
    contents: Audit, network: Network, formats: Mapping[str, Format], activations: Mapping[str, QuantizedActivation]
) -> None:
    """That every weight, of as many elements, and every activation is stored in the format that it was given.

    Raises:
        FileNotAsPlanned: one is not.
    """
    stored = {weight.name: weight for weight in contents.weights}
    for site in network.sites:
        weight, planned = stored.get(site.weight), formats.get(site.weight, FloatFormat())
        if weight is None or (weight.format, weight.elements) != (planned, site.size):
            got = "not at all" if weight is None else f"as {weight.format.name} of {weight.elements} elements"
            raise FileNotAsPlanned(
                f"weight {site.weight} is stored {got}; planned was {planned.name} of {site.size} elements"
            )
    _check_activations(contents, network, activations)


def _check_activations(contents: Audit, network: Network, activations: Mapping[str, QuantizedActivation]) -> None:
    rounded = Counter(contents.activations)
    moved = moved_from(network)
    for name, activation in activations.items():
        if activation.format.bits > 8 and moved.get(name) in activations:
            continue  # it holds rounded values already
        bits, scale = activation.format.bits, float(np.float32(activation.scale))
        planned = StoredActivation(name, bits, scale, activation.zero_point)
        if not rounded[planned]:
            raise FileNotAsPlanned(f"activation {name} is not rounded to {bits} bits at scale {scale}")
        rounded[planned] -= 1
    # a network may come with some of its own, whose values may have got another name
    own = Counter(replace(stored, name="") for stored in rounded_activations(network.proto.graph))
    for stored in rounded.elements():
        if not own[replace(stored, name="")]:
            raise FileNotAsPlanned(
                f"activation {stored.name} is rounded to {stored.bits} bits, and the plan leaves it float32"
            )
        own[replace(stored, name="")] -= 1


def _compared_outputs(context: Context, inputs: Inputs, model: ExportedPlan, halves: frozenset[str]) -> dict[str, Any]:
    """How the file's outputs differ from those of the simulated plan, on some held-out samples.

    With integer kernels some values take the neighbouring code, because exact sums are rounded where the simulation
    rounds float ones; so do inputs that layers round which multiply packed. Together they may not be further from the
    simulated plan than that is from the float network.
    Outputs that are picked from others, such as the largest scores, may differ where those are nearly equal, and are
    left out.
    """
    part = inputs.dataset.take(inputs.splits.held_out[: max(SAMPLES, inputs.static_batch or 0)])
    with tempfile.TemporaryDirectory(prefix="bitbudget-file-") as folder:
        outputs = _run(context, inputs, _as_users_load_it(inputs.network, model.file, Path(folder)), samples=part)
    release()  # a session that is gone: the simulated plan takes as much
    expected = _run(context, inputs, *_simulated(model, halves), samples=part)
    formats = {name: weight.format for name, weight in model.rounded.weights.items()}
    rounds = model.activations or packed_products(model.network, formats, model.products, model.unpacked)
    network = inputs.network
    floats = _run(context, inputs, network.proto, network.weight_folder, samples=part) if rounds else {}
    computed = [name for name in expected if not picked_from(inputs.network, name)]
    differences = [_difference(name, outputs[name], expected[name], floats.get(name)) for name in computed]
    return {
        "samples": part.samples,
        "equal": all(np.array_equal(outputs[name], expected[name], equal_nan=True) for name in expected),
        "largest_difference": max((largest for largest, _ in differences), default=0.0),
        "relative_difference": max((relative for _, relative in differences), default=0.0),
    }


def _as_users_load_it(network: Network, file: bytes, folder: Path) -> bytes | Path:
    """The file, for ONNX Runtime to decode all of its weights at once, as no other session of a job has it. That takes
    many times the float file: large ones are decoded weight by weight here, too (`evaluation.decoded`)."""
    if size_bytes(network.proto)[0] > DECODED_AT_ONCE:
        return file
    path = folder / "model.onnx"
    path.write_bytes(file)
    return path


def _simulated(model: ExportedPlan, halves: frozenset[str]) -> tuple[ModelProto, WeightFolder]:
    """The plan in floats, whose weights lie in the folder: in memory they are a float file beside the session's."""
    folder = WeightFolder()
    plan = simulated(
        model.network,
        model.rounded.weights,
        model.activations,
        products=model.products,
        unpacked=model.unpacked,
        halves=halves,
    )
    return in_folder(plan, folder), folder


def _difference(name: str, output: Floats, expected: Floats, floats: Floats | None) -> tuple[float, float]:
    """The largest difference of an output of floats, and the root mean square one beside its size; 0 for all others.

    Raises:
        FileNotAsPlanned: it is larger than rounding explains.
    """
    if output.shape != expected.shape:  # as many rows as were found
        return 0.0, 0.0
    finite = np.isfinite(expected)  # a plan may break the network, and is measured all the same
    difference, size = _rms((output - expected)[finite]), _rms(expected[finite])
    allowed = FLOAT_TOLERANCE * size
    if floats is not None and floats.shape == expected.shape:
        allowed = max(allowed, _rms((expected - floats)[finite]))
    if not difference <= allowed:
        raise FileNotAsPlanned(
            f"output {name!r} of the file differs from that of the simulated plan by {difference:g} in the root of the "
            f"mean square, and {allowed:g} is allowed"
        )
    return float(np.abs(output - expected)[finite].max(initial=0.0)), difference / size if size else 0.0


def _run(
    context: Context,
    inputs: Inputs,
    file: bytes | Path | ModelProto,
    weights: WeightFolder | None = None,
    *,
    samples: Dataset,
) -> dict[str, Floats]:
    """Every output of floats."""
    context.check()
    batching, longest = inputs.network.batching, inputs.longest_outputs

    def run(*, exact: bool) -> dict[str, Outputs]:
        runner = OnnxRunner(
            file, context.machine.threads, exact=exact, batching=batching, longest=longest, weights=weights
        )
        return runner.outputs(samples.inputs, inputs.batch)

    try:
        outputs = run(exact=True)  # what a processor's kernels cut off is no fault of the file, and is measured with it
    except ModelNotRunnable:  # 1.31 fails so on scales of each channel that come without zero points
        outputs = run(exact=False)
    return {name: output.astype(np.float64) for name, output in outputs.items() if output.dtype.kind == "f"}


def _rms(values: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.square(values).mean())) if values.size else 0.0
