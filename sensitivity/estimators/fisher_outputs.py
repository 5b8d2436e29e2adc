"""The diagonal Fisher at the output of the changed layer, as NVIDIA ModelOpt's AutoQuantize scores candidates.

AutoQuantize takes one backward pass of the loss, and for each candidate one forward pass of the layer alone, which
gives the change dy of its output y: the score is `sum_e g_e^2 dy_e^2`, a diagonal Fisher matrix in y. A forward pass of
a layer costs little, and what the weights of one output element do together is inside dy, so that only correlations
*between* outputs are lost; `fisher_weights` also loses those between weights. The score is

    1/2 mean_s sum_e g_{s,e}^2 dy_{s,e}^2 .

Deviations from ModelOpt: g comes from a probe of the outputs (`sensitivity.traces.output_probe`), no label and no loss
of training; its mean square is the diagonal of the Hessian of the damage in y. The factor 1/2 makes the sum a damage.
Of a tied weight the scores of all uses add up: the diagonal does not see that they act together.

`m_fac` sums the same products `g_e dy_e` before it squares them: both together take the time of one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from sensitivity.estimate import Estimate, Subject, Unit
from sensitivity.estimators.linearisation import Linearisation, Linearised, MicroBatch, Place, joined
from sensitivity.estimators.probed_parts import probed_draws


def fisher_outputs(subject: Subject) -> Estimate:
    """`1/2 mean_s sum_e (g_e dy_e)^2` at the outputs of layers, or at the rounded activations."""
    return from_products(subject, {"fisher_outputs": sum_of_squares})["fisher_outputs"]


def sum_of_squares(products: Sequence[Tensor]) -> Tensor:
    """`sum_e (g_e d_e)^2` of each unit, from the products `[units, elements]` of every value."""
    return joined([rows.square().sum(1) for rows in products])


Reduce = Callable[[Sequence[Tensor]], Tensor]


def from_products(subject: Subject, methods: Mapping[str, Reduce], place: Place = Place.OUTPUT) -> dict[str, Estimate]:
    """Half of what each method makes of the products `g_e d_e` of every candidate, in one pass for all methods.

    Args:
        subject: what is estimated.
        methods: by name, what makes of a candidate's products, one entry for each value, a number for each unit.
        place: where the changes of weights are looked at.
    """
    linearisation = Linearisation(subject, subject.changes, place)

    def work(batch: MicroBatch, linearised: Linearised, gradients: Mapping[str, Tensor]) -> dict[str, list[Tensor]]:
        sums: dict[str, list[Tensor]] = {name: [] for name in methods}
        for change in subject.changes:
            products = [
                linearisation.rows(name, gradients[name] * delta, batch.samples)
                for name, delta in linearisation.deltas(change, linearised).items()
            ]
            for name, reduce in methods.items():
                sums[name].append(0.5 * reduce(products))
        return sums

    draws = probed_draws(subject, linearisation, "-".join(methods), work, subject.check)
    return {name: Estimate(name, Unit.DAMAGE, *own.mean_and_stderr(), subject.samples) for name, own in draws.items()}
