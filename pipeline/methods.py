"""The methods that a job may plan with: which run always, which when asked for, and what each costs.

Costs are counted in float passes, so that they are the same on every machine: one is the float network over the
samples of the analysis, forward. Backward passes count by what they take in addition.
"""

from __future__ import annotations

from collections.abc import Iterable

from network.graph import Network
from sensitivity.estimators import METHODS

PREFERRED = "augmented"
"""What `auto` takes unless another method is better beyond doubt, and where no plans can be compared."""

# One pass for each candidate feeds all of these; needs no gradients, so it works on any graph that ONNX Runtime runs.
MEASURED = ("augmented", "cross_layer", "measured")
# The others run when a request names them: on every network of ours they predict worse [docs/benchmarks.md]. These
# cost little beside the passes above.
CHEAP = ("hawq_v2", "fisher_weights", "fisher_outputs", "m_fac", "quantization_error")
# These cost as much as the passes above or more.
DEAR = tuple(name for name in METHODS if name not in CHEAP)

# Of a forward and backward pass in torch, beside a forward pass in ONNX Runtime [measured on ResNet20: 3.5 to 4.5].
GRADIENT_PASSES = 4.0
# What a site's largest eigenvalue takes: passes over the samples, at two Hessian-vector products each, on average.
POWER_ITERATIONS = 10.0


def methods_to_run(named: Iterable[str]) -> tuple[str, ...]:
    """The estimators of the stage `sensitivity`, in order: those of the named methods that are not measured."""
    wanted = set(named)
    return tuple(name for name in (*CHEAP, *DEAR) if name in wanted)


def scores_of(method: str) -> str:
    """The method whose scores of single candidates this one takes, itself but for the augmented score."""
    return "measured" if method == "augmented" else method


def covers_activations(method: str) -> bool:
    """Whether the method scores activations as well as weights."""
    return method not in ("hawq", "q_bert")


def needs_gradients(method: str) -> bool:
    """Whether planning with this method takes a network that can be differentiated; `auto` takes what there is."""
    return method in CHEAP or method in DEAR


def float_passes(method: str, network: Network, candidates: int) -> float:
    """What a method takes by itself, in float passes over the samples of the analysis.

    An activation's candidate counts like the mean of those of weights: it lies somewhere in the network too.

    Args:
        method: any but `auto`.
        network: its multiply-accumulates say how much of a pass lies behind each weight's first use.
        candidates: how many are scored.
    """
    sites = len(network.sites)
    if method in MEASURED:
        return candidates * sum(remaining_shares(network)) / sites
    if method in ("hawq", "q_bert"):
        return 2 * GRADIENT_PASSES * POWER_ITERATIONS * sites
    if method in ("noise", "directional"):
        return candidates * (1.0 if method == "noise" else GRADIENT_PASSES)
    if method in ("fisher_outputs", "m_fac"):
        return GRADIENT_PASSES + candidates / sites  # each layer's own forward pass once for each of its candidates
    return 0.0 if method == "quantization_error" else GRADIENT_PASSES


def remaining_shares(network: Network) -> list[float]:
    """For each site the share of a pass that is left from its weight's first use on."""
    macs = [site.macs for site in network.sites]
    total = sum(macs) or 1
    return [sum(macs[index:]) / total for index in range(len(macs))]
