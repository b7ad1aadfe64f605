"""The machine's limits: rates by a clock that is known, and shares of them."""

import itertools

import pytest

from htc_tf.benchmarks import machine
from htc_tf.benchmarks.machine import Rates, Share


@pytest.fixture
def clock(monkeypatch):
    """Each pair of readings is two seconds apart, but half a second in the third attempt."""
    apart = itertools.cycle([2.0, 2.0, 0.5, 2.0, 2.0, 2.0, 2.0, 2.0])
    readings = itertools.chain.from_iterable((0.0, seconds) for seconds in apart)
    monkeypatch.setattr(machine.time, "process_time", lambda: next(readings))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_products(clock, precision):
    assert machine.matmul_rate(precision, side=8) == 2 * 8**3 / 0.5


def test_copies(clock, monkeypatch):
    copied = []
    monkeypatch.setattr(machine.np, "copyto", lambda target, source: copied.append(len(source)))
    assert machine.copy_rate(1000) == 2 * 1000 / 0.5
    assert copied == [1000] * (machine.ATTEMPTS + 1)


def test_rates_and_shares_are_told(monkeypatch):
    monkeypatch.setattr(machine, "matmul_rate", lambda precision: {"bfloat16": 480e9}[precision])
    monkeypatch.setattr(machine, "copy_rate", lambda: 24e9)
    assert str(Rates("bfloat16")) == "products 480.0 GFLOP, copies 24.0 GB read and written a CPU second"
    share = Share("FLOP", 900e9, 60e9, 20.0)
    assert share["limit_seconds"] == 15 and share["share"] == 0.75
    assert str(share) == "75.0 %: 900.000 GFLOP at 60.0 GFLOP a CPU second take 15000.0 ms"
