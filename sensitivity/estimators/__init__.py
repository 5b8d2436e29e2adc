"""Every published way to predict a candidate's damage that we know, behind one interface: one file for each method.

All cover weights; all but hawq and q_bert cover activations too. What each costs beside a float pass over the samples:

| method | what it predicts | cost |
|---|---|---|
| quantization_error | nothing but the error's size | no gradients |
| noise | damage of noise as large as the error | one pass for each candidate |
| hawq | order by largest eigenvalue | two passes for each layer and iteration |
| q_bert | order by largest eigenvalue and its spread | two passes for each layer and iteration |
| hawq_v2 | damage by the mean trace | gradients |
| fisher_weights | damage by the diagonal in the weights | gradients |
| fisher_outputs | damage by the diagonal at the layer's output | gradients, one layer for each candidate |
| m_fac | second-order damage, estimated | the same; nothing beside fisher_outputs |
| directional | second-order damage, exact | one pass for each candidate |
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sensitivity.estimate import Estimator
from sensitivity.estimators.directional import directional
from sensitivity.estimators.fisher_outputs import fisher_outputs, sum_of_squares
from sensitivity.estimators.fisher_weights import fisher_weights
from sensitivity.estimators.hawq import hawq
from sensitivity.estimators.hawq_v2 import hawq_v2
from sensitivity.estimators.m_fac import m_fac, square_of_sum
from sensitivity.estimators.noise import noise
from sensitivity.estimators.q_bert import q_bert
from sensitivity.estimators.quantization_error import quantization_error

METHODS: Mapping[str, Estimator] = MappingProxyType(
    {
        "quantization_error": quantization_error,
        "noise": noise,
        "hawq": hawq,
        "q_bert": q_bert,
        "hawq_v2": hawq_v2,
        "fisher_weights": fisher_weights,
        "fisher_outputs": fisher_outputs,
        "m_fac": m_fac,
        "directional": directional,
    }
)

AT_OUTPUTS = MappingProxyType({"fisher_outputs": sum_of_squares, "m_fac": square_of_sum})
"""Methods that take the same products at the outputs of layers: `from_products` gives both in the time of one."""
