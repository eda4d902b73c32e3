"""What chaos happens to: two machines, what is plugged into one of them, and what they have been through."""
from __future__ import annotations

import random
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Callable

from . import encrypted, product
from .devices import Audio, Device, Hub, Keyboard, Mouse, Serial, Stick, Tablet
from .guest import Guest
from .pair import Pair
from .product import AGENT, USBIPA

HUB = 14
SLOTS: dict[int | str, Callable[[], Device]] = {
    1: lambda: Stick(4 << 20, serial="CHAOS1"), 2: lambda: Stick(4 << 20, serial="CHAOS2"),
    3: lambda: Stick(1 << 20, serial="CHAOS3"), 9: Keyboard, 10: Serial,
    11: lambda: Stick(2 << 20, serial="CHAOS11"), 12: Audio, 13: Tablet,
    f"{HUB}.1": Mouse, f"{HUB}.2": Keyboard}
"""Which kind of device comes in which port: SuperSpeed, high speed, full speed, and behind a hub."""

TRANSPORTS = ("plain", "tls")


@dataclass
class World:
    """Two machines, what is plugged in, and what they have been through."""

    pair: Pair
    chance: random.Random
    plugged: dict[int | str, Device] = field(default_factory=dict)
    survived: Counter[str] = field(default_factory=Counter)
    recoveries: list[float] = field(default_factory=list)
    """Seconds from the end of the last fault until everything was found in order."""
    levels: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    """Of each daemon, after each quiet period: its memory in KiB and how many descriptors it has open."""

    @property
    def node(self) -> Guest:
        return self.pair.node

    @property
    def host(self) -> Guest:
        return self.pair.host

    def sides(self) -> tuple[tuple[Guest, str], tuple[Guest, str]]:
        """Both machines, each with its daemon."""
        return (self.node, AGENT), (self.host, USBIPA)

    def either(self) -> tuple[Guest, str]:
        """One of them."""
        return self.chance.choice(self.sides())

    def for_a_while(self, shortest: float, longest: float) -> None:
        """How long a fault lasts is what it is; nothing can be awaited instead."""
        threading.Event().wait(self.chance.uniform(shortest, longest))


def set_up(world: World, transport: str) -> None:
    """Both sides configured, so that all there is goes to the host; safe on the disk, for power is cut."""
    if transport == "tls":
        encrypted.listen(world.host)
        encrypted.enrol(world.pair)
        rule = f"{{name: everything, connect: {encrypted.HOST}}}"
        product.configure(world.node, AGENT, f"version: 1\nrules:\n  - {rule}\n")
    else:
        product.set_up(world.pair, product.EVERYTHING)
    world.node.plug(Hub(), HUB)
    for guest, _ in world.sides():
        guest.run(["modprobe", "sch_netem"])
        guest.run("sync")
