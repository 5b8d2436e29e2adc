"""Certificates over several claims and parts: which is the worst, whether all keep their budgets, how sure that is."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from evaluation.certificate import Certificate
from evaluation.certifying import Terms, certify
from evaluation.errors import MetricNotApplicable
from evaluation.metrics.claim import Claim, Measured
from evaluation.metrics.measurement import DropKind, Measurement
from evaluation.nulls import Blind

SAMPLES = 60


def part(contributions: NDArray[np.float64], name: str = "", reference: float = 1.0) -> Measurement:
    """A part whose samples lose this much of `reference`."""
    references = np.full(len(contributions), reference)
    return Measurement("explained", reference, reference - contributions.mean(), contributions, references, part=name)


def drawn(means: list[float], seed: int, spread: float = 0.05) -> tuple[Measurement, ...]:
    """Parts with these true drops; samples that are bad for one part are bad for the others, too."""
    generator = np.random.default_rng(seed)
    shared = generator.standard_normal(SAMPLES)
    return tuple(
        part(mean + spread * (0.6 * shared + 0.8 * generator.standard_normal(SAMPLES)), f"y[{index}]")
        for index, mean in enumerate(means)
    )


def of(*claims: tuple[Claim, tuple[Measurement, ...]]) -> Measured:
    return Measured(tuple(claim for claim, _ in claims), tuple(parts for _, parts in claims))


@pytest.mark.parametrize("means", [[0.01] * 12, [0.01] * 3 + [0.05]], ids=["all alike", "one is the worst"])
def test_the_interval_holds_the_drop_of_the_part_that_truly_is_the_worst(means: list[float]) -> None:
    """100 certificates at a level of 0.9; each bound would be missed by chance once in 1,000 tries."""
    claim, inside, above, below = Claim("explained", ("y",)), 0, 0, 0
    for seed in range(100):
        certificate = certify(of((claim, drawn(means, seed))), Terms(0.1, confidence=0.9, seed=seed))
        inside += certificate.low <= max(means) <= certificate.high
        above += certificate.high < max(means)
        below += certificate.low > max(means)
    assert inside >= 80
    # each end errs in 5 of 100 at most
    assert above <= 13
    assert below <= 13


def test_every_look_widens_it() -> None:
    measured = of((Claim("explained", ("y",)), drawn([0.01] * 5, 0)))
    once, often = (certify(measured, Terms(0.1, looks=looks)) for looks in (1, 5))
    assert often.low < once.low
    assert often.high > once.high


def test_the_worst_part_is_the_head_and_all_are_listed() -> None:
    parts = drawn([0.01, 0.2, 0.05], 1)
    certificate = certify(of((Claim("explained", ("y",), reason="numbers"), parts)), Terms(0.1))
    (claim,) = certificate.claims
    assert (claim.part, claim.parts, claim.met, claim.reason) == ("y[1]", 3, False, "numbers")
    assert certificate.drop == claim.drop == pytest.approx(parts[1].drop())
    assert [shown.part for shown in claim.worst] == ["y[1]", "y[2]", "y[0]"]
    assert [shown.drop for shown in claim.worst] == pytest.approx([parts[i].drop() for i in (1, 2, 0)])
    for shown in claim.worst:
        assert shown.low <= shown.drop <= shown.high
    assert certificate.right_to_wrong is certificate.wrong_to_right is None
    assert "worst of 3 measured parts is explained of y[1]" in certificate.statement


def test_one_part_of_many_that_misses_is_not_met() -> None:
    """However good the others are: no output is bought with another."""
    good, bad = drawn([0.0] * 30, 2), drawn([0.11], 3)

    def met(*parts: Measurement) -> bool:
        return certify(of((Claim("explained", ("y",)), parts)), Terms(0.1)).met

    assert met(*good)
    assert not met(*good, *bad)


def of_two_claims(first: float, second: float, own: float | None, **terms: float) -> Certificate:
    claims = (
        (Claim("explained", ("boxes",)), drawn([first], 4)),
        (Claim("explained", ("scores",), own), drawn([second], 5)),
    )
    return certify(of(*claims), Terms(0.1, **terms))  # type: ignore[arg-type]


def test_a_claim_with_a_budget_of_its_own_is_compared_with_that() -> None:
    assert of_two_claims(0.05, 0.05, None).met
    tight = of_two_claims(0.05, 0.05, 0.02)
    assert not tight.met
    assert [claim.met for claim in tight.claims] == [True, False]
    assert [claim.max_drop for claim in tight.claims] == [0.1, 0.02]
    # in the unit of the job's budget: 0.05 of 0.02 is what 0.25 of 0.1 is
    assert tight.drop == pytest.approx(5 * tight.claims[1].drop)
    assert tight.low == pytest.approx(5 * tight.claims[1].low)
    assert tight.high == pytest.approx(5 * tight.claims[1].high)
    wide = of_two_claims(0.05, 0.3, 0.5)
    assert wide.met
    assert wide.claims[1].drop > 0.25
    assert wide.drop < 0.1


def test_with_confidence_the_upper_end_of_every_claim_must_keep_its_budget() -> None:
    noise = np.random.default_rng(9).normal(0, 0.05, SAMPLES)
    near = part(0.095 + noise - noise.mean())  # 0.8 standard errors below the budget
    measured = of((Claim("explained", ("boxes",)), drawn([0.02], 4)), (Claim("explained", ("scores",)), (near,)))
    assert certify(measured, Terms(0.1)).met
    sure = certify(measured, Terms(0.1, confidence=0.95))
    assert [claim.met for claim in sure.claims] == [True, False]
    assert not sure.met
    assert sure.high > 0.1 >= sure.claims[0].high


def test_what_networks_that_know_nothing_lose_is_said_of_each_claim() -> None:
    nulls = [{"the mean outputs": 1.0}, {"the mean outputs": 0.03}]
    claims = ((Claim("explained", ("a",)), drawn([0.0], 6)), (Claim("cosine", ("b",)), drawn([0.01], 7)))
    blind = [Blind("output b", 0.03)]
    certificate = certify(of(*claims), Terms(0.1), nulls=nulls, blind_to=blind)
    assert [claim.null for claim in certificate.claims] == nulls
    assert certificate.blind_to == tuple(blind)
    assert "It cannot see: output b. A network that knows nothing there would keep this budget, too." in (
        certificate.statement
    )
    assert "cannot see" not in certify(of(*claims), Terms(0.1), nulls=nulls).statement


def test_a_share_of_what_knowing_nothing_costs() -> None:
    contributions = np.random.default_rng(8).normal(3.0, 0.5, SAMPLES)
    measured = of((Claim("mse", ("y",)), (part(contributions, reference=100.0),)))
    certificate = certify(measured, Terms(0.05, DropKind.OF_NULL))
    assert certificate.drop == pytest.approx(contributions.mean() / 100)
    assert certificate.low < certificate.drop < certificate.high < 0.05
    assert certificate.met
    assert "of what a network that knows nothing loses" in certificate.statement
    with pytest.raises(MetricNotApplicable, match="something to lose"):
        certify(of((Claim("mse", ("y",)), (part(contributions, reference=0.0),))), Terms(0.05, DropKind.OF_NULL))


def test_one_sample_is_no_certificate() -> None:
    with pytest.raises(ValueError, match="at least 2 samples"):
        certify(of((Claim("explained", ("y",)), (part(np.zeros(1)),))), Terms(0.1))
