"""How many strangers may be in the house at once, and who has to leave for the next one. Pure.

A flood of connections that say nothing must not keep out those that have something to say. So nobody is
turned away at the door: the stranger who has been silent longest goes, of the newcomer's own origin when that
one has had its share. Whoever has said what it wants is no stranger any more, and stays.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Hashable
from typing import Generic, TypeVar

MAXIMUM = 1024
MAXIMUM_PER_ORIGIN = 256
"""Strangers at once, in all and of one origin."""

Visitor = TypeVar("Visitor", bound=Hashable)


class Room(Generic[Visitor]):
    """Strangers in the order in which they came."""

    def __init__(self, maximum: int = MAXIMUM, maximum_per_origin: int = MAXIMUM_PER_ORIGIN) -> None:
        self._maximum = maximum
        self._maximum_per_origin = maximum_per_origin
        self._origins: dict[Visitor, str] = {}
        self._by_origin: dict[str, dict[Visitor, None]] = {}

    def __len__(self) -> int:
        return len(self._origins)

    def enter(self, visitor: Visitor, origin: str) -> Visitor | None:
        """*visitor* has come; who has to leave for it, if anybody."""
        own = self._by_origin.setdefault(origin, {})
        leaver: Visitor | None = None
        if len(own) >= self._maximum_per_origin:
            leaver = next(iter(own))
        elif len(self._origins) >= self._maximum:
            leaver = next(iter(self._origins))
        if leaver is not None:
            self.leave(leaver)
        self._origins[visitor] = origin
        self._by_origin.setdefault(origin, {})[visitor] = None
        return leaver

    def leave(self, visitor: Visitor) -> None:
        """*visitor* has gone, or is no stranger any more. Nothing happens when it was none."""
        origin = self._origins.pop(visitor, None)
        if origin is None:
            return
        own = self._by_origin[origin]
        del own[visitor]
        if not own:
            del self._by_origin[origin]


def origin_of(address: str) -> str:
    """What counts as one origin: an IPv4 address, or a /64 of IPv6, which is what one host has."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if parsed.version == 6:
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
