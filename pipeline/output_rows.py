"""The outputs in the report: what each is taken for, what it weighs, and by which metrics it is measured."""

from __future__ import annotations

from typing import Any

from pipeline.config import DamageConfig
from pipeline.context import Context
from pipeline.damage import damage_loss, looked_at


def output_rows(context: Context, damage: DamageConfig) -> list[dict[str, Any]]:
    """One row for each output of the network, in its order.

    `damage` lists the values that the predicted damage looks at for this output, with the kind of loss and its weight:
    the output itself, or what it is picked from; none where it is no float, or weighs 0.
    """
    work = context.workspace
    reference, network = work.reference(), work.network()
    loss = damage_loss(network, reference.values, damage)
    terms = {term.output: term for term in loss.terms} if loss is not None else {}
    values = looked_at(network)
    weights = dict(damage.weights)
    claims = work.claims()
    return [
        {
            "name": fact.name,
            "dtype": fact.dtype,
            "shape": list(fact.shape),
            "meaning": fact.meaning.value,
            "reason": fact.reason,
            "channels": len(fact.spread) or None,
            "constant_channels": fact.constant,
            "weight": weights.get(fact.name, 1.0),
            "damage": [
                {"value": name, "kind": terms[name].kind.value, "weight": terms[name].weight}
                for name in values.get(fact.name, ())
                if name in terms and weights.get(fact.name, 1.0) > 0
            ],
            "metrics": [claim.metric for claim in claims if fact.name in claim.outputs],
        }
        for fact in reference.facts
    ]
