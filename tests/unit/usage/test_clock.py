# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The clock that goes on while the machine stands still."""

from __future__ import annotations

import pytest

from limio_limitrail.usage import interrupts as clock


class Machine:
    """A machine's two clocks."""

    def __init__(self) -> None:
        self.boot, self.wall = 1000.0, 1_800_000_000.0

    def passes(self, seconds: float) -> None:
        self.boot += seconds
        self.wall += seconds


@pytest.fixture
def machine(monkeypatch):
    made = Machine()
    monkeypatch.setattr(clock.time, "time", lambda: made.wall)
    monkeypatch.setattr(clock._Uptime, "_since_boot", staticmethod(lambda: made.boot))
    return made


def test_it_goes_with_the_machine(machine):
    uptime = clock._Uptime()
    began = uptime()
    machine.passes(60)
    assert uptime() - began == pytest.approx(60)


def test_a_pause_that_only_the_time_of_day_shows_counts(machine):
    uptime = clock._Uptime()
    began = uptime()
    machine.passes(1)
    machine.wall += 3600
    assert uptime() - began == pytest.approx(3601)
    machine.passes(1)
    assert uptime() - began == pytest.approx(3602)


def test_a_time_of_day_that_is_set_back_takes_nothing_away(machine):
    uptime = clock._Uptime()
    began = uptime()
    for step in (3600, -7200, 86400, -86400):
        machine.wall += step
        machine.passes(1)
        now = uptime()
        assert now > began
        began = now


def test_it_goes_on_while_linux_is_suspended():
    assert clock._BOOT is None or clock._BOOT == clock.time.CLOCK_BOOTTIME
