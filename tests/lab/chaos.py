"""Chaos on real kernels: random faults, and after each quiet period an oracle that must find all in order.

A seed makes the same story again, as far as two emulated machines allow. By hand, for as long as wanted:
``python3 -m tests.lab.chaos --debs DIR --seed 7 --minutes 60``.
"""
from __future__ import annotations

import argparse
import os
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

from . import debs, product, snapshot
from .devices import Device, Keyboard, Serial, Stick
from .guest import Guest
from .pair import Pair
from .product import AGENT, USBIPA
from .report import LabError, say

RECOVERY = 180.0        # seconds until everything must be in order again; backoff is a minute at most
BURST = (1, 3)          # faults between two quiet periods
PORTS = {"stick": (1, 2, 3), "keyboard": (9,), "serial": (10,)}
LARGEST_MEMORY = 60_000     # kB of a daemon; far above what it has, far below a leak
MOST_DESCRIPTORS = 100


@dataclass
class World:
    """Two machines, what is plugged in, and what they have been through."""

    pair: Pair
    chance: random.Random
    plugged: dict[int, Device] = field(default_factory=dict)
    survived: Counter[str] = field(default_factory=Counter)

    @property
    def node(self) -> Guest:
        return self.pair.node

    @property
    def host(self) -> Guest:
        return self.pair.host

    def either(self) -> tuple[Guest, str]:
        """One of the machines, and its daemon."""
        return self.chance.choice([(self.node, AGENT), (self.host, USBIPA)])

    def for_a_while(self, shortest: float, longest: float) -> None:
        """How long a fault lasts is what it is; nothing can be awaited instead."""
        threading.Event().wait(self.chance.uniform(shortest, longest))


# Faults

def plug(world: World) -> None:
    free = [(kind, port) for kind, ports in PORTS.items() for port in ports if port not in world.plugged]
    if not free:
        return pull(world)
    kind, port = world.chance.choice(free)
    device: Device = Stick(4 << 20, serial=f"CHAOS{port}") if kind == "stick" else (
        Keyboard() if kind == "keyboard" else Serial())
    world.node.plug(device, port, wait=False)
    world.plugged[port] = device


def pull(world: World) -> None:
    if not world.plugged:
        return plug(world)
    port = world.chance.choice(sorted(world.plugged))
    world.node.unplug(world.plugged.pop(port), wait=False)


def cut_the_cable(world: World) -> None:
    silent = world.chance.random() < 0.7
    world.node.cut(silent=silent)
    world.for_a_while(0.5, 25)
    world.node.mend()


def lose_packets(world: World) -> None:
    loss, delay = world.chance.randint(5, 30), world.chance.randint(5, 150)
    guest, _ = world.either()
    guest.run(f"tc qdisc replace dev eth0 root netem loss {loss}% delay {delay}ms")
    world.for_a_while(5, 20)
    guest.run("tc qdisc del dev eth0 root")


def freeze(world: World) -> None:
    guest, _ = world.either()
    guest.freeze()
    world.for_a_while(0.5, 20)
    guest.thaw()


def reset(world: World) -> None:
    guest, _ = world.either()
    guest.reboot(hard=True)


def crash(world: World) -> None:
    guest, service = world.either()
    guest.run(f"kill -9 $(systemctl show -p MainPID --value {service})", check=False)


def restart(world: World) -> None:
    guest, service = world.either()
    guest.run(["systemctl", "restart", service], 120, check=False)


def reload(world: World) -> None:
    guest, service = world.either()
    guest.run(["systemctl", "reload", service], 120, check=False)


FAULTS: dict[str, tuple[int, Callable[[World], object]]] = {
    "plug": (6, plug), "pull": (4, pull), "cable cut": (3, cut_the_cable), "packet loss": (2, lose_packets),
    "frozen machine": (2, freeze), "power cut": (1, reset), "kill -9": (3, crash), "restart": (2, restart),
    "reload": (1, reload)}
"""By name: how likely, and what happens."""


# The oracle

def judge(world: World) -> None:
    """Awaits that every device that should be there is, and nothing else; then looks at what must not be."""
    wanted = sorted(device.busid for device in world.plugged.values())
    for guest in (world.node, world.host):
        guest.until("systemctl is-active usbip-agent || systemctl is-active usbipa", RECOVERY)
    for busid in wanted:
        product.until_state(world.node, busid, "connected", RECOVERY)
    product.until_attached(world.host, len(wanted), RECOVERY)
    world.host.until(f"[ $({product.TAKEN_PORTS} | wc -l) = {len(wanted)} ]", RECOVERY)
    claimed = world.node.sh(f"cat {product.STUB}/match_busid").split()
    bound = sorted(each.rsplit("/", 1)[-1] for each in
                   world.node.sh(f"ls -d {product.STUB}/[0-9]*-* 2>/dev/null || true").split())
    assert sorted(product.imports(world.host)) == wanted
    assert bound == wanted, (bound, wanted)
    assert set(claimed) >= set(wanted), (claimed, wanted)
    for guest, service in ((world.node, AGENT), (world.host, USBIPA)):
        _judge_health(guest, service)
    _judge_content(world)


def _judge_health(guest: Guest, service: str) -> None:
    assert guest.dmesg_warnings() == []
    stuck = guest.sh("ps -eo stat,comm | awk '$1 ~ /^D/ && $2 !~ /kworker/ {print $2}'").split()
    assert not stuck, f"{guest.name}: in D state: {stuck}"
    pid = product.pid(guest, service)
    memory = int(guest.sh(f"awk '/VmRSS/ {{print $2}}' /proc/{pid}/status"))
    descriptors = int(guest.sh(f"ls /proc/{pid}/fd | wc -l"))
    assert memory < LARGEST_MEMORY and descriptors < MOST_DESCRIPTORS, (guest.name, memory, descriptors)


def _judge_content(world: World) -> None:
    """One stick is read whole, so that a link that looks alive is."""
    sticks = [device for device in world.plugged.values() if isinstance(device, Stick)]
    if sticks:
        stick = world.chance.choice(sticks)
        assert world.host.disk_hash(stick, RECOVERY) == stick.sha256


# The run

def run(pair: Pair, seed: int, seconds: float) -> Counter[str]:
    """Faults and judgements for so long; how many of which were survived."""
    world = World(pair, random.Random(seed))
    product.set_up(pair, product.EVERYTHING)
    for guest in (pair.node, pair.host):
        guest.run(["modprobe", "sch_netem"])
    names, weights = list(FAULTS), [weight for weight, _ in FAULTS.values()]
    end = time.monotonic() + seconds
    plug(world)
    judge(world)
    while time.monotonic() < end:
        burst = world.chance.choices(names, weights, k=world.chance.randint(*BURST))
        say(f"chaos: {', '.join(burst)}")
        for name in burst:
            FAULTS[name][1](world)
        try:
            judge(world)
        except (AssertionError, LabError):
            say(f"chaos: not in order after {', '.join(burst)} (seed {seed}), "
                f"having survived {sum(world.survived.values())} faults")
            raise
        world.survived.update(burst)
    return world.survived


def main() -> None:
    """By hand."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--debs", help="packages; without, they are built from the tree")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=60.0)
    options = parser.parse_args()
    found = debs.find(options.debs)
    states = snapshot.prepare({"node": snapshot.Role(debs=debs.pick(found, debs.NODE)),
                               "host": snapshot.Role(debs=debs.pick(found, debs.HOST))})
    with Pair(states) as pair:
        pair.start()
        try:
            survived = run(pair, options.seed, options.minutes * 60)
        except BaseException:
            place = Path(os.environ.get("USBIP_LAB_EVIDENCE", "/tmp")) / f"chaos-{options.seed}"
            pair.dump(place)
            say(f"chaos: evidence in {place}")
            raise
    kinds = ", ".join(f"{count} {name}" for name, count in survived.items())
    say(f"chaos: {sum(survived.values())} faults survived: {kinds}")


if __name__ == "__main__":
    main()
