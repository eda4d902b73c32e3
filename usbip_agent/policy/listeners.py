"""Where the application side listens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from usbip_agent.names import DEFAULT_PORT
from usbip_agent.policy.credentials import CREDENTIALS, require_whole_credentials
from usbip_agent.policy.document import Entry, Mapping
from usbip_agent.policy.keys import choice, key as keyed, mapping_of, one, one_or_more, read_keys, section_of
from usbip_agent.policy.problems import NOWHERE, Place, Problems
from usbip_agent.policy.transports import ListenerTransport
from usbip_agent.policy.values import absolute_path, listening_address, port_number

MAXIMUM_LISTENERS = 64

ANY = "*"


@dataclass(frozen=True, slots=True)
class Listener:
    """One listening address; ``*`` = all of IPv4 and IPv6. The first bytes tell which transport is spoken."""

    address: str
    port: int
    transports: frozenset[ListenerTransport]
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Keys:
    """An item of ``listen``. The address has no default: nothing listens that was not asked to."""

    address: str = keyed(one(listening_address), default="", required=True)
    port: int = keyed(one(port_number), default=DEFAULT_PORT)
    transports: tuple[ListenerTransport, ...] = keyed(
        one_or_more(choice(ListenerTransport)), default=(ListenerTransport.TLS,))
    ca: Path | None = keyed(one(absolute_path), default=None)
    certificate: Path | None = keyed(one(absolute_path), default=None)
    key: Path | None = keyed(one(absolute_path), default=None)
    place: Place = NOWHERE


def read_listeners(entry: Entry, problems: Problems) -> tuple[Listener, ...]:
    """The section ``listen``; empty = listens nowhere."""
    items = section_of(entry, problems)
    if len(items) > MAXIMUM_LISTENERS:
        problems.add(entry.place, f"listen: more than {MAXIMUM_LISTENERS} listeners")
        return ()
    found = [
        _read_listener(mapping, problems)
        for item in items if (mapping := mapping_of(item, problems)) is not None
    ]
    _refuse_overlaps([each for each in found if each.address], problems)
    return tuple(
        Listener(each.address, each.port, frozenset(each.transports), each.ca, each.certificate, each.key)
        for each in found)


def _read_listener(mapping: Mapping, problems: Problems) -> _Keys:
    found = read_keys(_Keys, mapping, problems, what="a listener", place=mapping.place)
    require_whole_credentials(mapping, problems, what="a listener")
    if set(found.transports) == {ListenerTransport.PLAIN}:
        for name in CREDENTIALS:
            if entry := mapping.get(name):
                problems.add(entry.place, f"{name} has no place beside transports plain, which knows no TLS")
    return found


def _refuse_overlaps(found: Sequence[_Keys], problems: Problems) -> None:
    # Two sockets on one port, of which one takes all addresses, cannot be bound side by side.
    for number, later in enumerate(found):
        for earlier in found[:number]:
            if earlier.port == later.port and _overlap(earlier.address, later.address):
                problems.add(later.place, f"listen: {earlier.address} port {earlier.port} in {earlier.place}"
                                          f" listens there already")
                break


def _overlap(one_address: str, other: str) -> bool:
    if ANY in (one_address, other):
        return True
    addresses = ip_address(one_address), ip_address(other)
    if addresses[0].version != addresses[1].version:
        return False
    return addresses[0] == addresses[1] or any(address.is_unspecified for address in addresses)
