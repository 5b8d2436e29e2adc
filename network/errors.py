"""What can be wrong with a network that somebody uploads.

`code` is stable: it is what the API shows, and the service's catalogue has an entry for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


class NetworkError(ValueError):
    """Base of every refusal of a network. The text says what, got, expected, remedy."""

    code: ClassVar[str] = "model_invalid"


class NotOnnx(NetworkError):
    code = "model_not_onnx"


class ModelInvalid(NetworkError):
    """It breaks the rules of ONNX; what is derived from it is valid ONNX, and refused for another reason."""

    code = "model_invalid"


class ModelNotTaken(ModelInvalid):
    """Valid ONNX of a kind that nothing here works on."""

    code = "model_not_taken"


class ModelNotRunnable(ModelInvalid):
    """ONNX Runtime does not load or run it."""

    code = "model_not_runnable"


class ModelTooNew(ModelInvalid):
    """Of a newer version of ONNX than what is run here."""

    code = "model_too_new"


class ModelTooLarge(NetworkError):
    code = "model_too_large"


class TooMuchWork(NetworkError):
    """It takes longer to run, or has more parts to look at, than files of its size may."""

    code = "model_too_much_work"


class ExternalData(NetworkError):
    code = "model_external_data"


class CustomOperators(NetworkError):
    code = "model_custom_operators"


class RandomOperators(NetworkError):
    """Outputs that change by themselves."""

    code = "model_random_operators"


class TrainingMode(NetworkError):
    """Layers that behave as in training."""

    code = "model_training_mode"


class UnsupportedOperators(NetworkError):
    """Names every operator without a rule, and the nodes that use it."""

    code = "model_unsupported_operators"


class WeightsNotFinite(NetworkError):
    code = "model_weights_not_finite"


class ShapesNotFixed(NetworkError):
    code = "model_shapes_not_fixed"


class BatchAxisUnknown(NetworkError):
    """No axis of an input is left for the samples, or the axis that was stated is none."""

    code = "model_batch_axis_unknown"


class SamplesMixed(NetworkError):
    """Samples that share a call change each other's outputs."""

    code = "model_samples_mixed"


class NothingToQuantize(NetworkError):
    code = "model_nothing_to_quantize"


class NotReproduced(NetworkError):
    """Its outputs change on the way to what is analysed, however little of it is rewritten; names the first node."""

    code = "model_not_reproduced"


class OpsetNotReachable(NetworkError):
    """Nodes that an older opset does not have; names them, and the oldest opset that would do."""

    code = "opset_not_reachable"


class InterfaceDiffers(NetworkError):
    """A quantized file that is not one of its float model: other inputs, or no output in common."""

    code = "interface_differs"


def listing(names: Sequence[str], most: int = 5) -> str:
    """The first of many names, for a message."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
