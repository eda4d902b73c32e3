"""SRV records (RFC 2782): which machines offer a service, and in which order they are to be tried.

The question is asked by dnspython, in a process of its own (``service_question``). In the daemon the library
would stay resident for good: 3 to 18 MB, by version and by what else of its wishes is installed.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

from usbip_agent.errors import UnreachableFault
from usbip_agent.text import printable
from usbip_agent.transport.lookups import Lookups

DEADLINE = 15.0
"""Seconds. The process gives up by itself after 10; starting it may take a while on a small machine."""

SHORTEST_KEPT, LONGEST_KEPT = 5.0, 60.0
"""Seconds that an answer is kept, whatever its time to live: each question costs a process."""

QUESTION = Path(__file__).with_name("service_question.py")


@dataclass(frozen=True, slots=True, order=True)
class ServiceRecord:
    """One SRV record."""

    priority: int
    weight: int
    port: int
    target: str


@dataclass(frozen=True, slots=True)
class _Answer:
    records: frozenset[ServiceRecord] = frozenset()
    failure: str = ""
    kept_until: float = field(default=0.0)


_lookups: Lookups[_Answer] = Lookups()
_answers: dict[str, _Answer] = {}


async def service_records(name: str) -> frozenset[ServiceRecord]:
    """The SRV records of *name*, never empty. UnreachableFault, also when the service is declared absent."""
    answer = _answers.get(name)
    if answer is None or answer.kept_until <= time.monotonic():
        try:
            answer = await _lookups.ask(name, lambda: _ask(name), DEADLINE)
        except TimeoutError:
            answer = _Answer(failure=f"no answer for {DEADLINE:.0f} s")
    if not answer.records:
        raise UnreachableFault(f"cannot resolve {name}: {answer.failure}")
    return answer.records


def in_order(records: Iterable[ServiceRecord], chance: Callable[[], float]) -> list[ServiceRecord]:
    """By priority; those of one priority at random, by their weights. *chance* is in [0, 1)."""
    ordered: list[ServiceRecord] = []
    # Within a priority those without weight come first, as RFC 2782 wants it: then they have a small chance.
    left = sorted(records)
    while left:
        equals = [record for record in left if record.priority == left[0].priority]
        sums = list(accumulate(record.weight for record in equals))
        drawn = int(chance() * (sums[-1] + 1))
        chosen = next(record for record, so_far in zip(equals, sums, strict=True) if so_far >= drawn)
        ordered.append(chosen)
        left.remove(chosen)
    return ordered


async def _ask(name: str) -> _Answer:
    # -I: neither the working directory nor the environment has a say in what is imported.
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", str(QUESTION), name, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL)
    try:
        async with asyncio.timeout(DEADLINE):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    answer = _read(said.decode("ascii", "replace"), process.returncode or 0)
    now = time.monotonic()
    for stale in [each for each, kept in _answers.items() if kept.kept_until <= now]:
        del _answers[stale]
    _answers[name] = answer
    return answer


def _read(said: str, status: int) -> _Answer:
    """What the process *said*: time to live and records or, with a *status*, what was wrong."""
    soon = time.monotonic() + SHORTEST_KEPT
    first, *lines = said.splitlines() or [""]
    if status:
        what = printable(first) or f"the question ended with status {status}"
        return _Answer(failure=what, kept_until=soon)
    records = set()
    for line in lines:
        priority, weight, port, target = line.split()
        if target == ".":
            return _Answer(failure="DNS says that nobody offers this service", kept_until=soon)
        records.add(ServiceRecord(int(priority), int(weight), int(port), target.removesuffix(".")))
    kept = min(max(float(first), SHORTEST_KEPT), LONGEST_KEPT)
    return _Answer(frozenset(records), kept_until=time.monotonic() + kept)
