"""How much others on this machine get in the way of the guests.

Emulated processors are threads here, and what else runs here makes them wait. The scheduler counts for how
long each thread was ready to run and did not (``schedstat``), so that each plug can be told how fair it was.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path


class Watch:
    """Started when made; ``share`` ends it."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._waited = _waited()

    def share(self) -> float:
        """The time that the guests' threads waited for a processor, as a share of the time that passed."""
        return (_waited() - self._waited) / (time.monotonic() - self._began)


def _waited() -> float:
    """Seconds that the threads of our children, the guests, have waited until now."""
    total = 0
    for child in _children():
        for thread in Path(f"/proc/{child}/task").glob("*/schedstat"):
            try:
                total += int(thread.read_text("ascii").split()[1])
            except (OSError, IndexError):
                pass                    # it ended just now
    return total / 1e9


def _children() -> Iterator[str]:
    for children in Path("/proc/self/task").glob("*/children"):
        yield from children.read_text("ascii").split()
