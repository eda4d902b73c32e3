"""Damping: a few plugs are nobody's trouble, many are left alone ever longer, and time heals."""

from __future__ import annotations

from usbip_agent.device_side.flapping import LONGEST_DELAY, TOLERATED, WINDOW, FlapHistory


def test_a_person_who_tries_ports_is_not_damped() -> None:
    history = FlapHistory()
    assert [history.plugged("1-1", float(at))[0] for at in range(TOLERATED)] == [0.0] * TOLERATED
    assert history.plugged("1-2", 5.0) == (0.0, "")


def test_delays_grow_to_a_bound_and_say_why() -> None:
    history = FlapHistory()
    delays = [history.plugged("1-1", at * 0.5)[0] for at in range(40)][TOLERATED:]
    assert delays[:3] == [2.0, 4.0, 8.0] and max(delays) == LONGEST_DELAY
    assert delays == sorted(delays)
    assert "plugged in 41 times within a minute" in history.plugged("1-1", 20.0)[1]


def test_after_a_quiet_window_all_is_forgiven() -> None:
    history = FlapHistory()
    for at in range(20):
        history.plugged("1-1", float(at))
    assert history.plugged("1-1", 20.0 + WINDOW) == (0.0, "")
