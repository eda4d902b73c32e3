"""What clients of the daemons see on D-Bus, moment by moment, for benches that wait for it.

The witness in the guest stamps each change when it hears of it; so a bench may wait at leisure, and what it
reads afterwards are the guest's own times.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.bench.laboratory import IN_GUEST
from tests.lab.guest import Guest
from tests.lab.product import BUS, SLOW
from tests.lab.report import LabError


@dataclass(frozen=True)
class View:
    """From ``at`` on (the guest's clock) the daemon ``shown`` this, by BusId; nothing unless ``present``."""

    at: float
    present: bool
    shown: Mapping[str, Mapping[str, Any]]

    def state(self, busid: str) -> str:
        """Empty when there is no such object."""
        return str(self.shown[busid]["State"]) if busid in self.shown else ""

    def attempts(self, busid: str) -> int:
        return int(self.shown[busid]["Attempts"]) if busid in self.shown else 0

    def count(self, state: str) -> int:
        """How many objects are in *state*."""
        return sum(each["State"] == state for each in self.shown.values())


class Views:
    """All that is seen of one daemon, from now on."""

    def __init__(self, guest: Guest, service: str) -> None:
        self._guest = guest
        self._what = f"{service} on {guest.name}"
        self._job = guest.start_job(["python3", f"{IN_GUEST}/bus_witness.py", *BUS[service]])
        self._job.wait_for("ready", SLOW)

    def until(self, holds: Callable[[View], bool], since: float, deadline: float = SLOW) -> View:
        """The first change at or after *since* (the guest's clock) with which *holds* does."""
        found: list[View] = []
        read = 0

        def is_there() -> bool:
            nonlocal read
            end = self._job.out.rfind(b"\n") + 1
            lines, read = self._job.out[read:end].splitlines(), end
            views = (View(**json.loads(line)) for line in lines if line.startswith(b"{"))
            found.extend(view for view in views if view.at >= since and holds(view))
            return bool(found)
        try:
            self._guest.channel.wait(is_there, deadline, lambda: f"{self._what} did not come to it")
        except LabError as error:
            raise LabError(f"{error}; its last words:\n{self._job.output[-1000:]}\n"
                           f"{self._guest.context()}") from error
        return found[0]


def now(guest: Guest) -> float:
    """The guest's clock, a little early: CLOCK_MONOTONIC, to a hundredth of a second, rounded down."""
    return float(guest.sh("cat /proc/uptime").split()[0])
