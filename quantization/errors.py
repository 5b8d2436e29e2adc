"""What can go wrong between a network and its quantized file.

`code` is stable: it is what the API shows, and the service's catalogue has an entry for each.
"""

from __future__ import annotations

from typing import ClassVar


class QuantizationError(ValueError):
    """Base of every refusal of this package. The text says what, got, expected, remedy."""

    code: ClassVar[str] = "quantization_invalid"


class ActivationsNotFinite(QuantizationError):
    """The calibration samples drive a layer to infinity or to no number."""

    code = "calibration_activations_not_finite"


class ExportTooLarge(QuantizationError):
    """The file would pass the two gigabytes that protobuf can hold."""

    code = "export_too_large"


class FileNotAudited(QuantizationError):
    """A file that does not hold its weights the way `quantization.export.export` writes them."""

    code = "quantized_file_invalid"


class FileNotInspected(QuantizationError):
    """A quantized file of another tool that ONNX Runtime does not load, or whose tensors do not fit together."""

    code = "quantized_file_not_runnable"
