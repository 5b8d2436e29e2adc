"""What can be wrong with the samples that somebody uploads, and with a metric for them.

`code` is stable: it is what the API shows, and the service's catalogue has an entry for each.
"""

from __future__ import annotations

from typing import ClassVar


class DatasetError(ValueError):
    """Base of every refusal of a dataset. The text says what, got, expected, remedy."""

    code: ClassVar[str] = "dataset_invalid"


class DatasetInvalid(DatasetError):
    """Of no form that is read, damaged, or arrays of a type that is not taken."""

    code = "dataset_invalid"


class DatasetWrongNames(DatasetError):
    code = "dataset_wrong_names"


class DatasetSampleCounts(DatasetError):
    """The arrays disagree on the number of samples."""

    code = "dataset_sample_counts"


class DatasetShapeMismatch(DatasetError):
    code = "dataset_shape_mismatch"


class DatasetNotFinite(DatasetError):
    code = "dataset_not_finite"


class DatasetLabelsOutOfRange(DatasetError):
    code = "dataset_labels_out_of_range"


class DatasetTooFewSamples(DatasetError):
    code = "dataset_too_few_samples"


class DatasetTooLarge(DatasetError):
    code = "dataset_too_large"


class MetricNotApplicable(ValueError):
    """The metric cannot be computed from these outputs, or not without labels."""

    code: ClassVar[str] = "metric_not_applicable"


class MetricGraphInvalid(ValueError):
    """A metric of the user's own, an ONNX graph, that cannot be run on these outputs and data, or is no metric."""

    code: ClassVar[str] = "metric_graph_invalid"
