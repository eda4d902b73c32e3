"""Who is measured: the product, and the floor beside it, in the same guests.

Both run all the time, on ports of their own, and take turns: one is frozen (by systemd, so that it computes
nothing at all) while the other is measured. So a turn costs no start and may be as short as one plug: what
else this machine does then hits both alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tests.bench.laboratory import IN_GUEST, nodes_of
from tests.lab.guest import Guest
from tests.lab.pair import Pair
from tests.lab.product import AGENT, BUS, SLOW, USBIPA, set_up

PORTS = (3240, 3241)    # the product's, the floor's
VENDOR = "46f4"         # of QEMU's sticks
FLOOR = "bench-floor"
GROUP = "/sys/fs/cgroup/system.slice"


class Contender(Protocol):
    """Something that exports every stick plugged into a node to the host."""

    name: str

    def start(self, pair: Pair) -> None:
        """Starts both sides; returns when they are ready."""

    def catch_up(self, pair: Pair) -> None:
        """Returns when it has dealt with what happened while it was frozen."""

    def unit(self, guest: Guest) -> str:
        """The unit that it is on *guest*."""


class Product:
    """As its packages install it, which starts it."""

    name = "product"

    def start(self, pair: Pair) -> None:
        set_up(pair)
        for node in nodes_of(pair)[1:]:
            node.put("/etc/usbip-agent/agent.yaml", pair.node.get("/etc/usbip-agent/agent.yaml"))
            node.sh("systemctl reload usbip-agent", SLOW)

    def catch_up(self, pair: Pair) -> None:
        for guest in pair.guests.values():
            name, path = BUS[self.unit(guest)]
            guest.sh(f"busctl --timeout=60 call {name} {path} org.freedesktop.DBus.Peer Ping", SLOW)

    def unit(self, guest: Guest) -> str:
        return USBIPA if guest.name == "host" else AGENT


class Floor:
    """``floor_node.py`` and ``floor_host.py``."""

    name = "floor"

    def __init__(self, bind_first: bool = False) -> None:
        self._flags = "--bind-first " if bind_first else ""

    def start(self, pair: Pair) -> None:
        _start(pair.host, f"floor_host.py {PORTS[1]}")
        for node in nodes_of(pair):
            _start(node, f"floor_node.py {self._flags}{VENDOR} {pair.host.address} {PORTS[1]}")

    def catch_up(self, pair: Pair) -> None:
        """It forgets about what is not there any more."""

    def unit(self, guest: Guest) -> str:
        return FLOOR


class Turns:
    """Starts the contenders, and lets one of them at a time run."""

    def __init__(self, pair: Pair, contenders: Sequence[Contender]) -> None:
        self._pair = pair
        self._running: Contender | None = None
        for contender in contenders:
            contender.start(pair)
            self._each_unit("freeze", contender)

    def give(self, contender: Contender) -> None:
        """It is *contender*'s turn. Nothing is plugged when turns change."""
        if contender is self._running:
            return
        if self._running is not None:
            self._each_unit("freeze", self._running)
        self._running = contender
        self._each_unit("thaw", contender)
        contender.catch_up(self._pair)
        for guest in self._pair.guests.values():
            guest.sh("udevadm settle", SLOW)

    def _each_unit(self, verb: str, contender: Contender) -> None:
        for guest in self._pair.guests.values():
            guest.sh(f"systemctl {verb} {contender.unit(guest)}", SLOW)


def processor_time(guest: Guest, contender: Contender) -> float:
    """Seconds that *contender* has computed on *guest* since it was started."""
    return int(guest.sh(f"sed -n 's/^usage_usec //p' {GROUP}/{contender.unit(guest)}.service/cpu.stat")) / 1e6


def _start(guest: Guest, command: str) -> None:
    guest.start_job(f"exec systemd-run --quiet --unit={FLOOR} --pipe --wait python3 {IN_GUEST}/{command}"
                    ).wait_for("ready", SLOW)
