"""The two clocks: one to measure with, one to show."""

from __future__ import annotations

import time


def now_for_people() -> int:
    """Microseconds since the epoch, as D-Bus and JSON show times. Never measured with: it may be set."""
    return time.time_ns() // 1000
