"""Who has to leave when a flood comes: never one who has spoken, never the newest."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from usbip_agent.application_side.room import Room, origin_of


def test_a_flood_of_one_origin_costs_its_own_alone() -> None:
    room: Room[int] = Room(maximum=100, maximum_per_origin=3)
    assert room.enter(0, "enrolled") is None
    left = [room.enter(number, "flood") for number in range(1, 11)]
    assert left == [None, None, None, 1, 2, 3, 4, 5, 6, 7]
    assert len(room) == 4


def test_a_flood_of_many_origins_costs_the_longest_silent() -> None:
    room: Room[int] = Room(maximum=3, maximum_per_origin=3)
    assert [room.enter(number, f"10.0.0.{number}") for number in range(6)] == [None, None, None, 0, 1, 2]


def test_who_has_spoken_stays() -> None:
    room: Room[int] = Room(maximum=2, maximum_per_origin=2)
    room.enter(1, "a")
    room.leave(1)
    assert [room.enter(number, "a") for number in (2, 3, 4)] == [None, None, 2]


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=60))
def test_it_never_holds_more_than_it_may(visits: list[tuple[int, bool]]) -> None:
    room: Room[int] = Room(maximum=7, maximum_per_origin=3)
    for number, (origin, speaks) in enumerate(visits):
        leaver = room.enter(number, str(origin))
        assert leaver != number
        if speaks:
            room.leave(number)
        assert len(room) <= 7


def test_a_host_of_ipv6_is_its_network() -> None:
    assert origin_of("2001:db8::1") == origin_of("2001:db8::ffff%eth0") != origin_of("2001:db8:0:1::1")
    assert origin_of("10.0.0.1") != origin_of("10.0.0.2")
