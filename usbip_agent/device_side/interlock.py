"""The safety interlock: why a device must not be taken from the system that it carries. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from usbip_agent.kernel.usage import Usage
from usbip_agent.text import printable

MOST_PLACES = 3
"""Mount points of one device that are named; a container host has hundreds of the same disk."""


def reasons_against(usage: Usage, addresses: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Every reason against taking the device, in operators' words; none = it may be taken.

    *addresses* are those of the hosts that are not to be lost, by the hosts' names; for a host whose name
    does not resolve they are empty, and then the way to everywhere is taken for the way to it.
    """
    return (*_on_its_disks(usage), *_through_its_interfaces(usage, addresses), *_by_its_terminals(usage))


def _on_its_disks(usage: Usage) -> Iterator[str]:
    blocks = usage.blocks
    if any(each.where == "/" for each in blocks.mounted):
        yield "it carries the root file system"
    places: dict[str, list[str]] = {}
    for mounted in blocks.mounted:
        if mounted.where != "/":
            places.setdefault(mounted.node, []).append(printable(mounted.where))
    for node, where in places.items():
        more = len(where) - MOST_PLACES
        listed = ", ".join(where[:MOST_PLACES]) + (f" and {more} more places" if more > 0 else "")
        yield f"{printable(node)} is mounted on {listed}"
    yield from (f"{printable(node)} is swap" for node in blocks.swaps)
    yield from (f"{printable(node)} is in use by the system" for node in blocks.held)


def _through_its_interfaces(usage: Usage, addresses: Mapping[str, Sequence[str]]) -> Iterator[str]:
    for host, known in addresses.items():
        for way in usage.ways:
            if way.address in known and way.address:
                yield f"{printable(way.interface)} carries the way to {host} ({way.address})"
            elif not known and not way.address:
                yield f"{printable(way.interface)} may carry the way to {host}, whose address is not known"


def _by_its_terminals(usage: Usage) -> Iterator[str]:
    for seat in usage.seats:
        users = " and ".join(map(printable, seat.users))
        is_or_are = "is" if len(seat.users) == 1 else "are"
        yield f"the only keyboard of {seat.name}, where {users} {is_or_are} logged in"
    yield from (f"{terminal} is the system's console" for terminal in usage.consoles)
    yield from (f"{printable(login.user)} is logged in on {login.terminal}" for login in usage.logins)
