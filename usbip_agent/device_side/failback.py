"""Whether a host that was away is back for good. No I/O, no clock of its own.

A device that is connected to a spare host is interrupted when it returns to the preferred one, so it returns
only when that one has answered every probe for the whole failback period: what flaps within it starts anew.
Probes belong to a host, not to a device: one ``Steadiness`` serves all devices that might return to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from usbip_agent.policy.hosts import Host

SHORTEST_INTERVAL, LONGEST_INTERVAL = 2.0, 60.0
"""Seconds between probes of a host."""

PROBES_PER_PERIOD = 10

LONGEST_GAP = 2.5
"""Intervals without a probe after which nothing is known of the time between: we were asleep, or busy."""

LONGEST_PERIOD = 24 * 3600.0
"""Seconds after which a host that did not take the device is tried again, unless the rule says longer."""

_MOST_DOUBLINGS = 20


def probe_interval(period: float) -> float:
    """Seconds between probes of a host for a failback of *period* seconds (the shortest of those in use).

    A probe needs a deadline that is not longer.
    """
    return min(max(period / PROBES_PER_PERIOD, SHORTEST_INTERVAL), LONGEST_INTERVAL)


@dataclass(slots=True)
class Steadiness:
    """Since when a host has answered every probe. Times are monotonic seconds."""

    interval: float
    """Seconds between its probes (``probe_interval``); may be set anew."""
    _steady_since: float | None = None
    _last_probe: float = 0.0

    def probed(self, ok: bool, at: float) -> None:
        """A probe that was begun at *at* has been answered, or not."""
        if not ok:
            self._steady_since = None
        elif self._steady_since is None or self._has_gap(at):
            self._steady_since = at
        self._last_probe = at

    def go_back(self, period: float, at: float) -> bool:
        """Whether all probes of the last *period* seconds were answered, the latest of them just now.

        *at* may lie a little before that one: it is somebody else's probe that makes one ask.
        """
        if self._steady_since is None or self._has_gap(max(at, self._last_probe)):
            return False
        return self._last_probe - self._steady_since >= period

    def _has_gap(self, at: float) -> bool:
        return not 0 <= at - self._last_probe <= LONGEST_GAP * self.interval


@dataclass(slots=True)
class Returns:
    """How often a device was taken back to a host in vain: it answers, and then does not take the device.

    Each time is an interruption, so the host must have been back for twice as long before the next.
    """

    _in_vain: int = 0
    _left: Host | None = None

    def begun(self, left: Host) -> None:
        """The device leaves *left* for a host that it prefers."""
        self._left = left

    def connected(self, hosts: Sequence[Host], host: Host) -> None:
        """The device is connected to *host*, of *hosts*."""
        left, self._left = self._left, None
        if not preferred(hosts, host):
            self._in_vain = 0
        elif left is not None and host not in preferred(hosts, left):
            self._in_vain += 1

    def period(self, failback: float) -> float:
        """Seconds for which a host must have been back, where the rule says *failback* seconds."""
        return max(failback, min(LONGEST_PERIOD, failback * 2.0 ** min(self._in_vain, _MOST_DOUBLINGS)))


def preferred(hosts: Sequence[Host], connected: Host) -> tuple[Host, ...]:
    """Those of *hosts* that a device would rather be connected to; all, if *connected* is none of them."""
    return tuple(hosts[:hosts.index(connected)] if connected in hosts else hosts)


def host_to_return_to(hosts: Sequence[Host], connected: Host, period: float,
                      steadiness: Mapping[Host, Steadiness], at: float) -> Host | None:
    """The most preferred of *hosts* that is back for good; None = the device stays where it is."""
    return next((host for host in preferred(hosts, connected)
                 if host in steadiness and steadiness[host].go_back(period, at)), None)
