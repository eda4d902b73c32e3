"""How often one may guess: failures of the last minute, by where they came from. Bounded in memory."""

from __future__ import annotations

import ipaddress
from collections import deque
from typing import Final

WINDOW: Final = 60.0
"""Seconds that a failure counts."""

PER_SOURCE: Final = 5
OVERALL: Final = 120
"""Failures within the window after which a source, or everybody, has to wait."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def source_of(address: Address) -> str:
    """What counts as one source: an IPv4 address, or an IPv6 /64, which one host may have all of."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))
        return str(address.ipv4_mapped)
    return str(address)


class Limiter:
    """Counts failures. Times are seconds on a clock that is never set."""

    def __init__(self, per_source: int = PER_SOURCE, overall: int = OVERALL) -> None:
        self._per_source = per_source
        self._overall = overall
        # Whoever is not allowed does not fail, so that there are never many more than *overall*.
        self._failures: deque[tuple[float, str]] = deque(maxlen=2 * overall)

    def allows(self, source: str, now: float) -> bool:
        """Whether *source* may try."""
        while self._failures and not 0 <= now - self._failures[0][0] < WINDOW:
            self._failures.popleft()
        if len(self._failures) >= self._overall:
            return False
        return sum(1 for _, each in self._failures if each == source) < self._per_source

    def failed(self, source: str, now: float) -> None:
        """Notes that *source* tried and failed."""
        self._failures.append((now, source))
