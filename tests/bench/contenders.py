"""Who is measured: the product, and the floor beside it, in turn in the same guests."""

from __future__ import annotations

from typing import Protocol

from tests.bench.laboratory import IN_GUEST, nodes_of
from tests.lab.guest import Guest
from tests.lab.pair import Pair
from tests.lab.product import AGENT, SLOW, STICKS, USBIPA, agent_yaml, configure, usbipa_yaml

PORT = 3240
VENDOR = "46f4"         # of QEMU's sticks
FLOOR = "bench-floor"
GROUP = "/sys/fs/cgroup/system.slice"


class Contender(Protocol):
    """Something that exports every stick plugged into a node to the host."""

    name: str

    def start(self, pair: Pair) -> None:
        """Starts both sides; returns when they are ready."""

    def stop(self, pair: Pair) -> None:
        """Ends both sides."""

    def unit(self, guest: Guest) -> str:
        """The unit that it is on *guest*."""


class Product:
    """As its packages install it. While it is stopped it is masked: udev would have systemd start it."""

    name = "product"

    def configure(self, pair: Pair) -> None:
        """Both are running as the packages left them."""
        configure(pair.host, USBIPA, usbipa_yaml())
        for node in nodes_of(pair):
            configure(node, AGENT, agent_yaml(STICKS))

    def start(self, pair: Pair) -> None:
        for guest in (pair.host, *nodes_of(pair)):
            unit = self.unit(guest)
            guest.sh(f"systemctl unmask --runtime {unit}; systemctl start {unit}", SLOW)

    def stop(self, pair: Pair) -> None:
        for guest in (*nodes_of(pair), pair.host):
            unit = self.unit(guest)
            guest.sh(f"systemctl stop {unit}; systemctl mask --runtime {unit}", SLOW)

    def unit(self, guest: Guest) -> str:
        return USBIPA if guest.name == "host" else AGENT


class Floor:
    """``floor_node.py`` and ``floor_host.py``."""

    name = "floor"

    def __init__(self, bind_first: bool = False) -> None:
        self._flags = "--bind-first " if bind_first else ""

    def start(self, pair: Pair) -> None:
        self._start(pair.host, f"floor_host.py {PORT}")
        for node in nodes_of(pair):
            self._start(node, f"floor_node.py {self._flags}{VENDOR} {pair.host.address} {PORT}")

    def stop(self, pair: Pair) -> None:
        for guest in pair.guests.values():
            guest.sh(f"systemctl stop {FLOOR}; systemctl reset-failed {FLOOR} 2>/dev/null || true")

    def unit(self, guest: Guest) -> str:
        return FLOOR

    @staticmethod
    def _start(guest: Guest, command: str) -> None:
        guest.start_job(f"exec systemd-run --quiet --unit={FLOOR} --pipe --wait python3 {IN_GUEST}/{command}"
                        ).wait_for("ready")


def processor_time(guest: Guest, contender: Contender) -> float:
    """Seconds that *contender* has computed on *guest* since it was started."""
    return int(guest.sh(f"sed -n 's/^usage_usec //p' {GROUP}/{contender.unit(guest)}.service/cpu.stat")) / 1e6
