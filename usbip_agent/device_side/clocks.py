"""What tells the time to the state machine, and draws lots for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clocks:
    """What the machine needs of time and chance, so that tests can rule both."""

    monotonic: Callable[[], float]
    wall: Callable[[], int]
    """Microseconds since the epoch."""
    chance: Callable[[], float]
    """In [0, 1)."""
