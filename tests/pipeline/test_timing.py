"""Times beside a yardstick: what a slow machine changes, what is kept, and which differences count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from evaluation.latency import Latency, Timed
from pipeline import timing
from pipeline.config import TimingConfig
from pipeline.stages.latency import NOISE_MS, _counted
from pipeline.timing import Timing

HERE = TimingConfig("this processor", threads=1)
MILLISECONDS = {b"a": 1.0, b"b": 2.5}


@dataclass
class Context:
    """The part of a stage's context that times things."""

    results: dict[str, bytes] = field(default_factory=dict)

    def cached(self, key: str, compute: Callable[[], bytes]) -> bytes:
        if key not in self.results:
            self.results[key] = compute()
        return self.results[key]

    def check(self) -> None:
        """Nobody interrupts."""


@pytest.fixture
def slow(monkeypatch) -> Callable[[float], None]:
    """`slow(factor)`: everything takes that much longer than the yardstick's 0.2 ms and the 0.01 ms of a mere call."""
    factors = [1.0]

    def measure(timed: Sequence[Timed], threads: int, **_) -> list[Latency]:
        assert [len(one.model) > 1 for one in timed[:2]] == [True, True]
        net = [0.0, 0.2, *(MILLISECONDS[one.model] for one in timed[2:])]
        return [Latency(factors[0] * (0.01 + ms), factors[0] * 0.003, 11) for ms in net]

    monkeypatch.setattr(timing, "measure_alternatives", measure)
    return lambda factor: factors.__setitem__(0, factor)


A, B = Timed(b"a", {}), Timed(b"b", {})


def test_a_machine_that_is_slow_for_a_while_changes_nothing(slow):
    clock = Timing(Context(), HERE)
    first = clock.measured([A, B])
    slow(3.0)
    again = clock.measured([B, A])
    assert [one.median_ms for one in first] == pytest.approx([1.0, 2.5])
    assert [one.median_ms for one in again] == pytest.approx([2.5, 1.0])
    # that of the file and that of the call that does nothing
    assert again[0].spread_ms == pytest.approx(first[0].spread_ms) == pytest.approx(0.003 * 2**0.5)


def test_what_other_bytes_cost_a_mere_call_is_taken_off(monkeypatch):
    """With other bytes read in between, a call that does nothing takes 0.3 ms more, and so does every file."""

    def measure(timed: Sequence[Timed], threads: int, **_) -> list[Latency]:
        net = [MILLISECONDS.get(one.model, 0.0) + 0.3 * (one.bytes_between > 0) for one in timed]
        net[1] = 0.2
        return [Latency(0.01 + ms, 0.003, 11) for ms in net]

    monkeypatch.setattr(timing, "measure_alternatives", measure)
    far = replace(B, bytes_between=1 << 20)
    assert [one.median_ms for one in Timing(Context(), HERE).measured([A, far])] == pytest.approx([1.0, 2.5])


def test_the_scale_is_that_of_the_first_look_at_the_yardstick(slow):
    context = Context()
    slow(2.0)
    assert Timing(context, HERE).known([A])[0].median_ms == pytest.approx(2.0)
    slow(1.0)
    assert Timing(context, HERE).known([B])[0].median_ms == pytest.approx(5.0)


def test_a_known_file_keeps_its_time_beside_new_ones(slow, monkeypatch):
    context = Context()
    Timing(context, HERE).known([A])
    monkeypatch.setitem(MILLISECONDS, b"a", 7.0)
    assert [one.median_ms for one in Timing(context, HERE).known([A, B])] == pytest.approx([1.0, 2.5])
    assert len(context.results) == 3  # and the yardstick
    assert Timing(context, replace(HERE, threads=2)).known([A])[0].median_ms == pytest.approx(7.0)


def layer(**ms: float) -> dict[str, Latency]:
    names = {"float": "float32", "int4": "int4/channel", "int8": "int8/channel"}
    names |= {f"{width}a8": f"{names[width]}+uint8/tensor" for width in list(names)}
    return {names[name]: Latency(value, 0.001, 11) for name, value in ms.items()}


def test_what_noise_explains_takes_the_time_of_the_widest_and_of_float():
    found = layer(float=1.0, int4=0.98, int8=1.02, floata8=1.5, int4a8=0.41, int8a8=0.40)
    counted = {key: _counted(found, key) for key in found}
    assert counted == {
        "float32": 1.0,
        "int4/channel": 0.98,  # 4 % below the widest
        "int8/channel": 1.0,
        "float32+uint8/tensor": 1.5,
        "int4/channel+uint8/tensor": 0.40,
        "int8/channel+uint8/tensor": 0.40,
    }


def test_packed_formats_are_compared_with_each_other_and_with_float():
    """The widest format may be packed, and slow: it is no reference for those that run as the float kernel."""
    found = layer(float=1.0, int4=0.98, int8=1.01)
    found |= {"int4/block32": Latency(0.301, 0.001, 11), "int8/block32": Latency(0.30, 0.001, 11)}
    counted = {key: _counted(found, key, ["int4/block32", "int8/block32"]) for key in found}
    assert counted == {
        "float32": 1.0,
        "int4/channel": 1.0,
        "int8/channel": 1.0,
        "int4/block32": 0.30,
        "int8/block32": 0.30,
    }


def test_tiny_layers_do_not_differ():
    found = layer(float=0.0029, int4=0.0011, int8=0.0017)
    assert {_counted(found, key) for key in found} == {0.0029}
    assert max(one.median_ms for one in found.values()) - 0.0011 < NOISE_MS


@pytest.mark.parametrize("seed", range(3))
def test_luck_does_not_tell_formats_apart(seed):
    """Seven widths of one true latency: the plan sees one. Each of 7 comparisons fails with a chance of 0.3 %."""
    generator = np.random.default_rng(seed)
    names = ["float32", *(f"int{bits}/channel" for bits in range(2, 9))]
    found = {name: Latency(1.0 + 0.02 * generator.standard_normal(), 0.02, 11) for name in names}
    assert {_counted(found, name) for name in names} == {found["float32"].median_ms}


def test_products_are_compared_with_those_of_their_own_operator():
    """Of a network that multiplies `int8/channel` by another operator than blocks neither is the other's reference, and
    between 8-bit activations the same format is none of them."""
    found = layer(float=1.0, int4=0.98, int8=0.255, floata8=1.5, int4a8=0.41, int8a8=0.40)
    found |= {"int8/block32": Latency(0.25, 0.001, 11)}
    packed = ["int8/channel", "int8/block32"]
    counted = {key: _counted(found, key, packed) for key in found}
    assert counted["int8/channel"] == 0.255
    assert counted["int8/block32"] == 0.25
    assert counted["int4/channel"] == 1.0
    assert counted["int4/channel+uint8/tensor"] == 0.40
