"""A device that comes and goes: a loose plug, a dying stick. Pure; who plugs it in says when.

Each plug costs both machines an enumeration and every program that uses the device a fright. So a port whose
device was plugged in too often lately is left alone for a while, longer each time, and that is said.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

WINDOW = 60.0
"""Seconds that count."""

TOLERATED = 20
"""Plugs within the window that are nobody's trouble: somebody tries ports, a device changes its firmware."""

LONGEST_DELAY = 60.0

MAXIMUM_PORTS = 1024


@dataclass(slots=True)
class FlapHistory:
    """When the devices of which ports were plugged in."""

    _plugs: dict[str, deque[float]] = field(default_factory=dict)

    def plugged(self, bus_id: str, at: float) -> tuple[float, str]:
        """Notes a plug *at* monotonic seconds: for how long to leave the device alone, 0 = not, and why."""
        if len(self._plugs) >= MAXIMUM_PORTS:
            self._plugs = {name: plugs for name, plugs in self._plugs.items() if plugs[-1] > at - WINDOW}
        plugs = self._plugs.setdefault(bus_id, deque(maxlen=64))
        plugs.append(at)
        while plugs[0] <= at - WINDOW:
            plugs.popleft()
        excess = len(plugs) - TOLERATED
        if excess <= 0:
            return 0.0, ""
        delay = min(LONGEST_DELAY, 2.0 ** excess)
        return delay, f"plugged in {len(plugs)} times within a minute: left alone for {delay:.0f} s"
