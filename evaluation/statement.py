"""What a certificate shows, in sentences: what was measured, what these samples can tell, what they cannot."""

from __future__ import annotations

from collections.abc import Callable

from evaluation.certificate import Certificate, ClaimResult
from evaluation.intervals import difference_interval, proportion_interval
from evaluation.metrics.measurement import DropKind, Measurement, Unit

_NAMED = 6  # claims or blind spots


def statement(certificate: Certificate, measurement: Measurement, level: float) -> str:
    """The sentences of a certificate whose worst part is `measurement`, with an interval of this level."""
    kind = DropKind(certificate.kind)
    unit = amount(measurement.unit, measurement.metric, kind)
    samples, looks = certificate.samples, certificate.looks
    several = len(certificate.claims) > 1 or certificate.claims[0].parts > 1
    if several:
        head = _worst(certificate)
        place = f"{head.metric} of {head.part or ' and '.join(head.outputs)}"
        parts = [
            f"On {samples:,} held-out samples the worst of {_parts(certificate):,} measured parts is {place}, with a "
            f"drop ({kind}) of {unit(certificate.drop)}; with {certificate.level:.4g} confidence the true drop of the "
            f"worst lies between {unit(certificate.low)} and {unit(certificate.high)}"
        ]
    else:
        parts = [
            f"On {samples:,} held-out samples the {kind} drop of {certificate.metric} is {unit(certificate.drop)}; "
            f"with {certificate.level:.4g} confidence the true drop lies between {unit(certificate.low)} and "
            f"{unit(certificate.high)}"
        ]
    parts[0] += f", counting {looks} looks at these samples." if looks > 1 else "."
    parts += _resolved(certificate, measurement, level, unit)
    if several:
        parts += [_claim(claim, kind) for claim in certificate.claims[:_NAMED]]
        if len(certificate.claims) > _NAMED:
            parts.append(f"{len(certificate.claims) - _NAMED} more claims are in the list.")
    if certificate.not_finite:
        parts.append(
            f"In {certificate.not_finite:,} of them it gives NaN or infinity where the float network gives a number: "
            "no budget is kept."
        )
    if certificate.blind_to:
        named = ", ".join(blind.null for blind in certificate.blind_to[:_NAMED])
        more = len(certificate.blind_to) - _NAMED
        parts.append(
            f"It cannot see: {named}{f' and {more} more' if more > 0 else ''}. A network that knows nothing there "
            "would keep this budget, too."
        )
    if certificate.synthetic:
        parts.append(
            "The samples were made from the graph's shapes, not taken from real data: the drop on real data may "
            "be quite another."
        )
    return " ".join(parts)


def amount(unit: Unit, metric: str, kind: DropKind) -> Callable[[float], str]:
    """How a drop is written: shares in points, their relative drops in percent, divergences in nats."""
    if kind is DropKind.OF_NULL:
        return lambda value: f"{100 * value:.3g} % of what a network that knows nothing loses"
    if unit is Unit.SHARE and metric != "cosine":
        name = " points" if kind is DropKind.ABSOLUTE else " %"
        return lambda value: f"{100 * value:.3g}{name}"
    absolute = kind is DropKind.ABSOLUTE and unit not in (Unit.NONE, Unit.SHARE)
    name = f" {unit.value}" if absolute else ""
    return lambda value: f"{value:.3g}{name}"


def _resolved(
    certificate: Certificate, measurement: Measurement, level: float, unit: Callable[[float], str]
) -> list[str]:
    samples = certificate.samples
    kind = DropKind(certificate.kind)
    if measurement.counts and kind is not DropKind.OF_NULL and measurement.bounds and measurement.bounds[0] < 0:
        scale = measurement.float_value if kind is DropKind.RELATIVE else 1.0
        none = difference_interval(0, 0, samples, level).high
        return [
            f"One sample is {unit(1 / samples / scale)}; {samples:,} samples cannot tell a drop below "
            f"{unit(certificate.resolution)} from none, and even without any change they would not exclude one of "
            f"{unit(none / scale)}."
        ]
    if measurement.counts and kind is not DropKind.OF_NULL:
        none = proportion_interval(0, samples, level).high
        return [
            f"One sample is {unit(certificate.resolution)}; even without any change {samples:,} samples would not "
            f"exclude a drop of {unit(none)}."
        ]
    apart = unit(certificate.resolution)
    return [f"{samples:,} samples like these cannot tell apart drops that differ by less than {apart}."]


def _worst(certificate: Certificate) -> ClaimResult:
    return max(
        certificate.claims,
        key=lambda claim: claim.drop * (certificate.max_drop / claim.max_drop if claim.max_drop else 1.0),
    )


def _parts(certificate: Certificate) -> int:
    return sum(claim.parts for claim in certificate.claims)


def _claim(claim: ClaimResult, kind: DropKind) -> str:
    unit = amount(Unit(claim.unit), claim.metric, kind)
    return (
        f"{' and '.join(claim.outputs)}: {claim.metric} ({claim.reason}), drop {unit(claim.drop)}, "
        f"allowed {unit(claim.max_drop)}."
    )
