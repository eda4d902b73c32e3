"""32 devices at once: time to the last one, of the product and of the floor.

usbip-host's table holds 16 devices, so 16 sticks are plugged into each of two nodes, as fast as QEMU
takes them. They hang on all 15 ports of the controller, one of which carries a hub. Kernels enumerate one
device after the other on each side: so a burst is long, and the floor shows how much of it is theirs.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.bench import clocks, tracing
from tests.bench.benches import idle
from tests.bench.contenders import PORTS, Contender, Floor, Product, Turns, processor_time
from tests.bench.daemons import Cost, Daemon
from tests.bench.figures import Report, Table, median
from tests.bench.laboratory import Laboratory, nodes_of, tell
from tests.lab import product as packaged
from tests.lab.channel import Job
from tests.lab.devices import Hub, Stick
from tests.lab.guest import Guest
from tests.lab.pair import Pair

ORDER = 3
SECOND_NODE = "node2"
HUB_PORT = 15
PLUGS = (*range(1, HUB_PORT), f"{HUB_PORT}.1", f"{HUB_PORT}.2")
DEADLINE = 600.0
CONNECTED = "systemctl status --no-pager usbip-agent | grep -q 'Status: \"{} connected'"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bursts", type=int, default=2, metavar="N", help="bursts of each contender (2)")
    parser.add_argument("--devices", type=int, default=2 * len(PLUGS), metavar="N",
                        help=f"devices in a burst, half of them on each node (at most {2 * len(PLUGS)})")


@dataclass(frozen=True)
class Burst:
    """Seconds since the first device was there for its node's kernel."""

    last_plugged: float
    first_arrived: float
    last_arrived: float
    processor: Mapping[str, float]
    uncertainty: float


@dataclass
class Found:
    bursts: dict[str, list[Burst]] = field(default_factory=dict)
    costs: dict[str, dict[str, Cost]] = field(default_factory=dict)


def measure(laboratory: Laboratory, options: argparse.Namespace) -> Report:
    contenders: tuple[Contender, ...] = (Product(), Floor())
    found = Found({each.name: [] for each in contenders})
    with laboratory.guests(SECOND_NODE) as pair:
        for guest in pair.guests.values():
            tracing.start(guest, tracing.HOST_PROBES if guest is pair.host else tracing.NODE_PROBES, PORTS)
        turns = Turns(pair, contenders)
        bench = _Bench(pair, turns, clocks.start_witness(pair.host), options.devices // 2)
        for number in range(options.bursts):
            for contender in contenders:
                burst, costs = bench.burst(contender, options.idle_seconds)
                found.bursts[contender.name].append(burst)
                tell(f"burst {number + 1} of {options.bursts}: {contender.name} {burst.last_arrived:.1f} s")
                if costs:
                    found.costs[f"{options.devices} devices"] = costs
    return _report(found, options)


class _Bench:
    def __init__(self, pair: Pair, turns: Turns, witness: Job, of_each: int) -> None:
        self._pair = pair
        self._turns = turns
        self._nodes = nodes_of(pair)
        self._witness = witness
        self._arrivals = 0
        self._ports = PLUGS[:of_each]
        self._sticks = {node.name: [Stick(1 << 20, serial=f"{node.name}p{number}")
                                    for number in range(of_each)]
                        for node in self._nodes}
        if of_each >= HUB_PORT:
            for node in self._nodes:
                node.plug(Hub(), HUB_PORT)

    def burst(self, contender: Contender, idle_seconds: int) -> tuple[Burst, dict[str, Cost]]:
        """All devices in, and out again. The product is looked at while it has them all."""
        pair = self._pair
        self._turns.give(contender)
        for guest in pair.guests.values():
            tracing.clear(guest)
        before = {node.name: clocks.sample(node, pair.host) for node in self._nodes}
        spent = self._processor(contender)
        self._plug()
        clocks.wait_arrivals(self._witness, self._arrivals, DEADLINE)
        spent = {name: now - spent[name] for name, now in self._processor(contender).items()}
        self._settle(contender)
        after = {node.name: clocks.Clocks(before[node.name], clocks.sample(node, pair.host))
                 for node in self._nodes}
        burst = self._read(after, spent)
        costs = {}
        if isinstance(contender, Product):
            agents = [Daemon(node, packaged.AGENT) for node in self._nodes]
            costs = idle.seen([*agents, Daemon(pair.host, packaged.USBIPA)], idle_seconds)
        self._unplug()
        return burst, costs

    def _plug(self) -> None:
        for index, port in enumerate(self._ports):
            for node in self._nodes:
                node.plug(self._sticks[node.name][index], port, wait=False)
                self._arrivals += 1

    def _settle(self, contender: Contender) -> None:
        if isinstance(contender, Product):
            for node in self._nodes:
                node.until(CONNECTED.format(len(self._ports)), DEADLINE, every=1)
        for sticks in self._sticks.values():
            for stick in sticks:
                self._pair.host.until(f"[ -b {stick.disk} ]", DEADLINE, every=1)
        for guest in self._pair.guests.values():
            guest.sh("udevadm settle --timeout=300", DEADLINE)

    def _unplug(self) -> None:
        for node in self._nodes:
            for stick in self._sticks[node.name]:
                node.unplug(stick, wait=False)
        for node in self._nodes:
            node.until(f'[ -z "$(tr -d "[:space:]" < {packaged.STUB}/match_busid)" ]', DEADLINE, every=1)
        self._pair.host.until(f"! {packaged.TAKEN_PORTS}", DEADLINE, every=1)
        for guest in self._pair.guests.values():
            guest.sh("udevadm settle --timeout=300", DEADLINE)

    def _processor(self, contender: Contender) -> dict[str, float]:
        return {guest.name: processor_time(guest, contender) for guest in self._pair.guests.values()}

    def _read(self, clock: Mapping[str, clocks.Clocks], spent: Mapping[str, float]) -> Burst:
        """On the host's clock: two nodes are compared, and it is the one that both were compared to."""
        arrived = tracing.times(tracing.events(self._pair.host), "uevent", tracing.ARRIVED)
        plugged = [clock[node.name].on_host(at) for node in self._nodes for at in self._plugged(node)]
        start = min(plugged)
        return Burst(max(plugged) - start, min(arrived) - start, max(arrived) - start, spent,
                     clocks.worst(list(clock.values())))

    def _plugged(self, node: Guest) -> Sequence[float]:
        seen = tracing.events(node)
        busids = [stick.busid for stick in self._sticks[node.name]]
        return [min(tracing.times(seen, "uevent", tracing.plugged(busid))) for busid in busids]


def _report(found: Found, options: argparse.Namespace) -> Report:
    rows = [(name, f"{median(each.last_plugged for each in bursts):.1f}",
             f"{median(each.first_arrived for each in bursts):.1f}",
             f"{median(each.last_arrived for each in bursts):.1f}",
             f"{max(each.last_arrived for each in bursts):.1f}",
             *(f"{median(each.processor[name] for each in bursts):.1f}" for name in ("node", "host")))
            for name, bursts in found.bursts.items()]
    head = Table(
        "Seconds since the first device was there for its node's kernel; medians of the bursts",
        ("", "last plugged", "first arrived", "last arrived", "at most", "processor node", "host"), rows)
    ratio = (median(each.last_arrived for each in found.bursts["product"])
             / median(each.last_arrived for each in found.bursts["floor"]))
    figures: dict[str, Any] = {
        "devices": options.devices, "ratio": ratio, "costs": idle.as_figures(found.costs),
        "bursts": {name: [vars(each) for each in bursts] for name, bursts in found.bursts.items()}}
    return Report(
        f"{options.devices} devices at once, half of them on each of two nodes", figures,
        [head, idle.table(found.costs)], idle.aims(found.costs),
        [f"The product needs {ratio:.2f} × the floor's time; {options.bursts} bursts each. These are three "
         "guests on this machine's processors: expect noise."])
