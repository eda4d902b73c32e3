"""How long to wait for the next attempt: doubled each time, and never the same for two devices of a fleet."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_DELAY = 1.0
LONGEST_DELAY = 60.0
"""Seconds between attempts: doubled from the first to the longest, which hold with the spread."""

SPREAD = 0.25
"""A fleet that lost its host at once does not come back at once."""

_MOST_DOUBLINGS = 10


@dataclass(slots=True)
class Delays:
    """The delays of one device, since there was hope last."""

    _count: int = 0

    def begin_anew(self) -> None:
        """There is hope: what kept it waiting may be over."""
        self._count = 0

    def after_failure(self, chance: float) -> float:
        """Seconds until the next attempt; *chance* is in [0, 1)."""
        delay = min(LONGEST_DELAY / (1 + SPREAD), self._doubled())
        self._count += 1
        return max(FIRST_DELAY, delay * (1 - SPREAD + 2 * SPREAD * chance))

    def while_blocked(self) -> float:
        """Seconds until it is looked again whether this system still stands on the device."""
        self._count += 1
        return min(LONGEST_DELAY, self._doubled())

    def _doubled(self) -> float:
        return FIRST_DELAY * 2.0 ** min(self._count, _MOST_DOUBLINGS)
