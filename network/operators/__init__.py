"""The rules by which torch computes ONNX operators, one file per operator family.

Importing this package fills the registry.
"""

from network.operators import (
    activation,
    arithmetic,
    attention,
    convolution,
    creation,
    elementwise,
    indexing,
    linear,
    logic,
    normalization,
    pooling,
    recurrent,
    reduction,
    resize,
    shape,
)

__all__ = [
    "activation",
    "arithmetic",
    "attention",
    "convolution",
    "creation",
    "elementwise",
    "indexing",
    "linear",
    "logic",
    "normalization",
    "pooling",
    "recurrent",
    "reduction",
    "resize",
    "shape",
]
