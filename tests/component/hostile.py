"""What is done to either daemon's surroundings, and what it may cost: a full disk, a huge policy."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from usbip_agent.bus.client import Client

UNKNOWN = "a restart will not know of it"
"""What is said of a record that could not be written."""

POLICY_SIZE = 10_000_000

HANGS = 15.0
"""Seconds without an answer that are too many: the watchdog is fed as often, on a machine however busy."""


def fill_the_disk(records: Path, *names: str) -> None:
    """There is room for names, and not for a byte more, until each of these records has been tried once."""
    records.mkdir(parents=True, exist_ok=True)
    for name in names:
        (records / f".{name}.new").symlink_to("/dev/full")


def write_huge_rules(configuration: Path, rule: str) -> int:
    """Appends *rule*, with ``%d`` twice in it, again and again; how many there are."""
    count = 0
    with configuration.open("a") as file:
        while file.tell() < POLICY_SIZE:
            file.write(f"  - {rule % (count, count)}\n")
            count += 1
    return count


async def asked_meanwhile(client: Client, has_ended: Callable[[], bool]) -> tuple[float, float]:
    """Asks the daemon again and again until it *has_ended* something: how long that took, and one answer."""
    begun, longest = time.monotonic(), 0.0
    while not has_ended():
        asked = time.monotonic()
        await client.reports()
        longest = max(longest, time.monotonic() - asked)
    return time.monotonic() - begun, longest
