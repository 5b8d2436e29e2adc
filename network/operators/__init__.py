"""The rules by which torch computes ONNX operators, one file per operator family.

Importing this package fills the registry.
"""

from network.operators import (  # noqa: F401  (importing them fills it)
    activation,
    arithmetic,
    attention,
    control_flow,
    convolution,
    creation,
    elementwise,
    indexing,
    linear,
    losses,
    normalization,
    pooling,
    quantized,
    recurrent,
    reduction,
    resize,
    sampling,
    selection,
    sequences,
    shape,
    signal,
)
