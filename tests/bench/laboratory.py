"""The guests of a bench: fresh ones with the product, and with the programs that measure."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.lab import debs, snapshot
from tests.lab.guest import Guest
from tests.lab.machine import State
from tests.lab.pair import Pair

HERE = Path(__file__).parent
IN_GUEST = "/run/bench"
PROGRAMS = ("floor_node.py", "floor_host.py", "witness.py", "bus_witness.py", "importing.py")
_STARTED = time.monotonic()


class Laboratory:
    """Prepared once, when the first bench asks for guests."""

    def __init__(self, packages: str | None) -> None:
        self._packages = packages
        self._prepared: Mapping[str, State] = {}

    @contextmanager
    def guests(self, *more_nodes: str) -> Iterator[Pair]:
        """A fresh ``node`` and ``host``, and *more_nodes* like the first, running."""
        if not self._prepared:
            found = debs.find(self._packages)
            self._prepared = snapshot.prepare({"node": snapshot.Role(debs=debs.pick(found, debs.NODE)),
                                               "host": snapshot.Role(debs=debs.pick(found, debs.HOST))})
        states = {**self._prepared, **{name: self._prepared["node"] for name in more_nodes}}
        with Pair(states) as pair:
            pair.start()
            for guest in pair.guests.values():
                for program in PROGRAMS:
                    guest.put(f"{IN_GUEST}/{program}", HERE / program)
            yield pair


def nodes_of(pair: Pair) -> list[Guest]:
    """Every guest that exports."""
    return [guest for name, guest in pair.guests.items() if name != "host"]


def tell(text: str) -> None:
    """A line of progress."""
    print(f"bench {time.monotonic() - _STARTED:6.1f} s  {text}", file=sys.stderr, flush=True)
