"""Chaos on real kernels: random faults, and after each quiet period an oracle that must find all in order.

A seed makes the same story again, as far as two emulated machines allow. By hand, for as long as wanted:
``python3 -m tests.lab.chaos --debs DIR --seed 7 --minutes 60 --transport tls``.
"""
from __future__ import annotations

import argparse
import os
import random
import time
from pathlib import Path

from . import chaos_faults, debs, snapshot
from .chaos_faults import FAULTS
from .chaos_oracle import judge
from .chaos_world import TRANSPORTS, World, set_up
from .pair import Pair
from .report import LabError, say

BURST = (1, 3)          # faults between two quiet periods


def run(pair: Pair, seed: int, seconds: float, transport: str) -> World:
    """Faults and judgements for so long; returns what was survived."""
    world = World(pair, random.Random(seed))
    set_up(world, transport)
    names, weights = list(FAULTS), [weight for weight, _ in FAULTS.values()]
    begun = time.monotonic()
    chaos_faults.plug(world)
    judge(world)
    while time.monotonic() < begun + seconds:
        burst = world.chance.choices(names, weights, k=world.chance.randint(*BURST))
        say(f"chaos: {time.monotonic() - begun:.0f} s, {len(world.plugged)} devices: {', '.join(burst)}")
        try:
            for name in burst:
                FAULTS[name][1](world)
            ended = time.monotonic()
            judge(world)
            world.recoveries.append(time.monotonic() - ended)
        except (AssertionError, LabError):
            say(f"chaos: not in order after {', '.join(burst)} (seed {seed}), "
                f"having survived {sum(world.survived.values())} faults")
            raise
        world.survived.update(burst)
    return world


def told(world: World) -> str:
    """The faults survived, by kind, and how far memory and descriptors of each daemon went up and down."""
    kinds = ", ".join(f"{count} {name}" for name, count in world.survived.most_common())
    recoveries = sorted(world.recoveries)
    lines = [f"{sum(world.survived.values())} faults survived: {kinds}",
             f"{len(recoveries)} quiet periods, all in order and looked at after {recoveries[0]:.0f} to "
             f"{recoveries[-1]:.0f} s, half of them within {recoveries[len(recoveries) // 2]:.0f} s"]
    for service, levels in world.levels.items():
        (memory, descriptors) = ([level[which] for level in levels] for which in (0, 1))
        lines.append(f"{service}, {len(levels)} times: {min(memory)} to {max(memory)} kB, "
                     f"{min(descriptors)} to {max(descriptors)} descriptors; "
                     f"at last {memory[-1]} kB, {descriptors[-1]}")
    return "\n".join(lines)


def main() -> None:
    """By hand."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--debs", help="packages; without, they are built from the tree")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--transport", choices=TRANSPORTS, default="tls")
    options = parser.parse_args()
    found = debs.find(options.debs)
    states = snapshot.prepare({"node": snapshot.Role(debs=debs.pick(found, debs.NODE)),
                               "host": snapshot.Role(debs=debs.pick(found, debs.HOST))})
    with Pair(states) as pair:
        pair.start()
        try:
            world = run(pair, options.seed, options.minutes * 60, options.transport)
        except BaseException:
            place = Path(os.environ.get("USBIP_LAB_EVIDENCE", "/tmp")) / f"chaos-{options.seed}"
            pair.dump(place)
            say(f"chaos: evidence in {place}")
            raise
    say(f"chaos: {told(world)}")


if __name__ == "__main__":
    main()
