"""A thousand devices and five thousand rules: what they cost grows with their number, and no faster."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.component.agent.scale import RULES, decision, loading, measure


@pytest.mark.slow
def test_costs_grow_with_the_number_of_devices(record_property: Callable[[str, object], None]) -> None:
    nothing, few, many = (measure(devices) for devices in (0, 250, 1000))
    record_property("costs", [nothing, few, many])
    for name in ("start", "attempts"):
        base = getattr(nothing, name)
        # Four times as many; the rest is for a machine that has other things to do.
        assert getattr(many, name) - base <= 2 * 4 * (getattr(few, name) - base) + 0.5, name
    assert many.replug <= 3 * few.replug + 0.005
    assert many.memory - nothing.memory < 1000 * 20
    assert many.plug < 5.0


def test_a_decision_by_the_last_of_many_rules(record_property: Callable[[str, object], None]) -> None:
    few, many = decision(RULES // 10), decision(RULES)
    record_property("milliseconds", round(many * 1000, 3))
    assert many <= 2 * 10 * few + 0.001 and many < 0.05


def test_a_large_configuration_is_read_in_time_that_grows_with_it(
        record_property: Callable[[str, object], None]) -> None:
    (few, size), (many, larger) = loading(RULES), loading(4 * RULES)
    record_property("seconds_for_each_megabyte", round(many / larger * 1e6, 2))
    assert many <= 2 * larger / size * few
    assert many / larger * 1e6 < 4.0, "10 MB are not to take a minute"
