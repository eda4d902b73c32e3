"""Deadlines that pass when the test says so."""

from __future__ import annotations

import asyncio


def pass_time(seconds: float) -> None:
    """So many seconds are over, as the event loop sees it."""
    loop = asyncio.get_running_loop()
    now = loop.time
    loop.time = lambda: now() + seconds  # type: ignore[assignment]
