"""What a daemon costs while nothing happens: memory, and how often it wakes up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.lab import product
from tests.lab.guest import Guest

WATCHDOG_PER_MINUTE = 4
"""WatchdogSec=30s, fed at half of it."""

MEMORY_AIM = 30 * 1024

# One snapshot of the process: memory in KiB, then how often its threads have slept and been woken.
LOOK = r"""
cd /proc/{pid}
sed -n 's/^VmRSS:\s*\([0-9]*\) kB/rss \1/p' status
sed -n 's/^Pss:\s*\([0-9]*\) kB/pss \1/p' smaps_rollup
sed -n 's/^Private_Dirty:\s*\([0-9]*\) kB/private \1/p' smaps_rollup
cat task/*/status | sed -n 's/^\(voluntary\|nonvoluntary\)_ctxt_switches:\s*/\1 /p'
ls task | sed 's/.*/threads 1/'
"""


@dataclass(frozen=True)
class Daemon:
    """One of the product's services in one guest."""

    guest: Guest
    service: str

    def __str__(self) -> str:
        return f"{self.service} on {self.guest.name}"


@dataclass(frozen=True)
class Cost:
    """Of one daemon: sizes in KiB (``private``: not shared with any file), wakeups in a minute.

    A wakeup is a voluntary context switch: a thread that had gone to sleep was woken and sleeps again.
    """

    rss: int
    pss: int
    private: int
    threads: int
    wakeups: float
    preempted: float
    """Switches in a minute that the scheduler forced; no wakeups."""


def costs(daemons: Sequence[Daemon], seconds: int) -> list[Cost]:
    """What each costs now, all seen over the same *seconds* during which nobody disturbs them."""
    before = [_look(daemon) for daemon in daemons]
    for wait in [daemon.guest.start_job(f"sleep {seconds}") for daemon in daemons]:
        wait.wait(seconds + 60)
    return [_cost(first, _look(daemon), seconds) for daemon, first in zip(daemons, before)]


def _look(daemon: Daemon) -> dict[str, int]:
    found: dict[str, int] = {}
    for line in daemon.guest.sh(LOOK.format(pid=product.pid(daemon.guest, daemon.service))).splitlines():
        name, number = line.split()
        found[name] = found.get(name, 0) + int(number)
    return found


def _cost(before: dict[str, int], after: dict[str, int], seconds: int) -> Cost:
    def per_minute(name: str) -> float:
        return (after[name] - before[name]) * 60 / seconds
    return Cost(after["rss"], after["pss"], after["private"], after["threads"],
                per_minute("voluntary"), per_minute("nonvoluntary"))
