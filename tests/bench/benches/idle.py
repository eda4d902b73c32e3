"""Memory of each daemon, and how often it wakes up when nothing happens: idle, and with one device."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from tests.bench.daemons import MEMORY_AIM, WATCHDOG_PER_MINUTE, Cost, Daemon, costs
from tests.bench.figures import Aim, Report, Table, mib
from tests.bench.laboratory import Laboratory, tell
from tests.lab import product
from tests.lab.devices import Stick

ORDER = 2
SLACK = 1
"""A watchdog's turn more or less may fall into the time."""

Found = Mapping[str, Mapping[str, Cost]]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--idle-seconds", type=int, default=60, metavar="S",
                        help="how long nothing is done, for each figure (60)")


def measure(laboratory: Laboratory, options: argparse.Namespace) -> Report:
    found: dict[str, dict[str, Cost]] = {}
    with laboratory.guests() as pair:
        product.set_up(pair)
        daemons = [Daemon(pair.node, product.AGENT), Daemon(pair.host, product.USBIPA)]
        found["nothing plugged"] = seen(daemons, options.idle_seconds)
        stick = Stick(serial="BENCH2")
        busid = pair.node.plug(stick, 1)
        product.until_state(pair.node, busid, "connected")
        pair.host.until(f"[ -b {stick.disk} ]", product.SLOW)
        found["1 device"] = seen(daemons, options.idle_seconds)
    title = "What the daemons cost when nothing happens"
    return Report(title, as_figures(found), [table(found)], aims(found))


def seen(daemons: Sequence[Daemon], seconds: int) -> dict[str, Cost]:
    """The costs by daemon; what is still going on in the guests has its end first."""
    for daemon in daemons:
        daemon.guest.sh("udevadm settle; sync; sleep 5", product.SLOW)
    tell(f"looking at idle daemons for {seconds} s")
    return dict(zip(map(str, daemons), costs(daemons, seconds)))


def table(found: Found) -> Table:
    rows = [(f"{name}, {when}", mib(cost.rss), mib(cost.pss), mib(cost.private), str(cost.threads),
             f"{cost.wakeups:.1f}", f"{cost.preempted:.1f}")
            for when, by_daemon in found.items() for name, cost in by_daemon.items()]
    head = ("", "VmRSS", "Pss", "private", "threads", "wakeups", "preempted")
    return Table("Memory in MiB, wakeups and preemptions in a minute", head, rows)


def aims(found: Found) -> list[Aim]:
    all_costs = [cost for by_daemon in found.values() for cost in by_daemon.values()]
    most, often = max(cost.rss for cost in all_costs), max(cost.wakeups for cost in all_costs)
    return [Aim(f"at most {mib(most)} MiB resident (aim ≤ {mib(MEMORY_AIM)})", most <= MEMORY_AIM),
            Aim(f"at most {often:.1f} wakeups in a minute (aim: the watchdog's {WATCHDOG_PER_MINUTE})",
                often <= WATCHDOG_PER_MINUTE + SLACK)]


def as_figures(found: Found) -> dict[str, dict[str, dict[str, float]]]:
    return {when: {name: asdict(cost) for name, cost in each.items()} for when, each in found.items()}
