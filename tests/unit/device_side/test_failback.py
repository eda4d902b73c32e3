"""A device goes back when its host is back for good, and never while it flaps."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies

from usbip_agent.device_side.failback import (
    LONGEST_GAP, LONGEST_INTERVAL, SHORTEST_INTERVAL, Steadiness, host_to_return_to, preferred,
    probe_interval,
)
from usbip_agent.policy.hosts import Host

PERIOD = 600.0
INTERVAL = probe_interval(PERIOD)

LAB, BACKUP, SPARE = Host("lab", "192.0.2.1"), Host("backup", "192.0.2.2"), Host("spare", "192.0.2.3")

PROBES = strategies.lists(
    strategies.tuples(strategies.booleans() | strategies.just(True), strategies.floats(0.1, 4 * INTERVAL)),
    max_size=60)
"""Whether it was answered, and the seconds since the one before."""


@given(PROBES, strategies.floats(0, 4 * INTERVAL))
def test_it_goes_back_only_after_a_whole_period_of_answers(
        probes: list[tuple[bool, float]], late: float) -> None:
    host, now, known = Steadiness(INTERVAL), 1000.0, []
    for ok, pause in probes:
        now += pause
        host.probed(ok, now)
        known.append((now, ok))
    now += late
    streak = _streak(known, now)
    assert host.go_back(PERIOD, now) == (bool(streak) and streak[-1] - streak[0] >= PERIOD)


def _streak(known: list[tuple[float, bool]], now: float) -> list[float]:
    """When the probes were that were answered without a failure or a gap up to *now*."""
    streak: list[float] = []
    after = now
    for at, ok in reversed(known):
        if not ok or after - at > LONGEST_GAP * INTERVAL:
            break
        streak.insert(0, at)
        after = at
    return streak


@given(strategies.floats(10, 86400))
def test_a_steady_host_is_returned_to_soon_after_the_period(period: float) -> None:
    interval = probe_interval(period)
    assert SHORTEST_INTERVAL <= interval <= LONGEST_INTERVAL
    host, now = Steadiness(interval), 0.0
    while not host.go_back(period, now):
        now += interval
        host.probed(True, now)
        assert now <= period + 2.5 * interval


@pytest.mark.parametrize("up, down", [(PERIOD - INTERVAL, 1), (PERIOD / 2, PERIOD), (1, 1)])
def test_never_while_it_flaps(up: float, down: float) -> None:
    host, now = Steadiness(INTERVAL), 0.0
    for _ in range(50):
        end = now + up
        while now < end:
            now += min(INTERVAL, up)
            host.probed(True, now)
            assert not host.go_back(PERIOD, now)
        host.probed(False, now := now + down)
        assert not host.go_back(PERIOD, now)


def test_time_that_nobody_watched_does_not_count() -> None:
    host = Steadiness(INTERVAL)
    host.probed(True, 0.0)
    host.probed(True, 10 * PERIOD)
    assert not host.go_back(PERIOD, 10 * PERIOD)
    for step in range(1, 11):
        host.probed(True, 10 * PERIOD + step * INTERVAL)
    assert host.go_back(PERIOD, 11 * PERIOD)
    assert not host.go_back(PERIOD, 12 * PERIOD), "that was long ago"
    assert host.go_back(PERIOD, 11 * PERIOD - 1), "the probe of another host was begun earlier"


def test_an_unknown_host_is_not_back() -> None:
    assert not Steadiness(INTERVAL).go_back(0.0, 0.0)


def test_what_is_preferred() -> None:
    hosts = (LAB, BACKUP, SPARE)
    assert preferred(hosts, LAB) == ()
    assert preferred(hosts, SPARE) == (LAB, BACKUP)
    assert preferred(hosts, Host("gone", "192.0.2.4")) == hosts


def test_the_most_preferred_that_is_back() -> None:
    hosts, steadiness = (LAB, BACKUP, SPARE), {LAB: Steadiness(INTERVAL), BACKUP: Steadiness(INTERVAL)}

    def returns_to(connected: Host, at: float) -> Host | None:
        return host_to_return_to(hosts, connected, PERIOD, steadiness, at)

    for step in range(12):
        steadiness[BACKUP].probed(True, step * INTERVAL)
        steadiness[LAB].probed(step > 3, step * INTERVAL)
    now = 11 * INTERVAL
    assert returns_to(SPARE, now) is BACKUP
    assert returns_to(BACKUP, now) is None and returns_to(LAB, now) is None
    for step in range(12, 16):
        steadiness[LAB].probed(True, step * INTERVAL)
        steadiness[BACKUP].probed(True, step * INTERVAL)
    assert returns_to(BACKUP, 15 * INTERVAL) is LAB
    assert returns_to(SPARE, 15 * INTERVAL) is LAB
