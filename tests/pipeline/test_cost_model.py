"""What the parts of a job are counted as, and what that takes at a machine's speed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.cost_model import MatrixShape, Work, rounded_anew, rounded_to_formats, second_moments
from pipeline.machine_speed import MachineSpeed
from quantization.formats import CodedFormat, IntegerFormat

SPEED = MachineSpeed(sample_seconds=0.5, load_seconds=2.0, loop_ratio=3.0, mac_seconds=1e-9)
SHAPE = MatrixShape(groups=1, rows=64, columns=256, macs_per_sample=256**2 * 16)
INTEGERS = [IntegerFormat(bits) for bits in (2, 4, 8)]
CODED = [CodedFormat(18), CodedFormat(27)]


def test_work_takes_its_units_at_the_speed_of_the_machine() -> None:
    work = Work(samples=4, loads=1, loops=0.1, macs=1e9)
    assert work.seconds(SPEED) == pytest.approx(2.0 + 2.0 + 0.3 + 1.0)
    assert (work + work).seconds(SPEED) == pytest.approx(2 * work.seconds(SPEED))
    assert (work * 3).seconds(SPEED) == pytest.approx(3 * work.seconds(SPEED))


@pytest.mark.parametrize("formats", [INTEGERS, CODED])
def test_rounding_costs_more_with_more_of_everything(formats) -> None:
    def seconds(shape: MatrixShape, given=formats) -> tuple[float, float]:
        return rounded_to_formats(shape, given).seconds(SPEED), rounded_anew(shape, given).seconds(SPEED)

    for larger in (replace(SHAPE, rows=128), replace(SHAPE, columns=512), replace(SHAPE, groups=2)):
        assert all(more > less for more, less in zip(seconds(larger), seconds(SHAPE), strict=True))
    assert seconds(SHAPE, formats[:1])[0] < seconds(SHAPE)[0]
    assert seconds(SHAPE, [])[0] == 0


def test_a_weight_without_moments_is_only_rounded() -> None:
    nearest = replace(SHAPE, macs_per_sample=None)
    assert 0 < rounded_to_formats(nearest, INTEGERS).loops < rounded_to_formats(SHAPE, INTEGERS).loops
    assert rounded_anew(nearest, INTEGERS) == Work()
    assert second_moments(nearest, 100, 10) == Work()


def test_moments_of_both_networks_cost_more_than_of_one() -> None:
    one, both = (second_moments(SHAPE, 128, 64, of_both=of_both) for of_both in (False, True))
    assert one.macs == pytest.approx(128 * 256**2 * 16 / 2)
    assert both.macs > one.macs
    assert both.loops > one.loops
