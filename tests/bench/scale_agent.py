"""What the agent costs with many devices and many rules, and how that grows. Needs no laboratory and no root.

usage: /usr/bin/python3 -m tests.bench.scale_agent [--json] [DEVICES…]     (0 100 300 1000)

The real daemon on umockdev's devices, with the fakes of tests/component/agent. Times are processor seconds
of the daemon; on a machine that is busy they are somewhat longer.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict

from tests.bench.figures import Report, Table
from tests.component.agent.scale import RULES, Cost, decision, measure

DEVICES = (0, 100, 300, 1000)
SHARES_OF_RULES = (50, 10, 3, 1)

COLUMNS: dict[str, Callable[[Cost], float]] = {
    "start s": lambda cost: cost.start, "attempts s": lambda cost: cost.attempts,
    "GetManagedObjects s": lambda cost: cost.objects,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="scale_agent", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("devices", nargs="*", type=int, default=DEVICES)
    parser.add_argument("--json", action="store_true", help="JSON on stdout, no tables")
    options = parser.parse_args()
    decisions = {RULES // share: decision(RULES // share) for share in SHARES_OF_RULES}
    costs = []
    for devices in options.devices:
        print(f"{devices} devices, {RULES} rules …", file=sys.stderr, flush=True)
        costs.append(measure(devices))
    report = _report(decisions, costs)
    print(json.dumps({"version": 1, "scale_agent": report.as_json()}) if options.json else report)
    return 0


def _report(decisions: dict[int, float], costs: Sequence[Cost]) -> Report:
    rules = Table("One decision, by the last of so many rules", ("rules", "ms", "µs a rule"), [
        (str(count), f"{taken * 1000:.2f}", f"{taken / count * 1e6:.2f}")
        for count, taken in decisions.items()])
    devices = Table(
        f"With {RULES} rules: all seen at start, all refused by their host; one of them replugged; one more",
        ("devices", *COLUMNS, "replug ms", "one more plug to request ms", "MiB"),
        [(str(cost.devices), *(f"{value(cost):.2f}" for value in COLUMNS.values()),
          f"{cost.replug * 1000:.1f}", f"{cost.plug * 1000:.0f}",
          f"{cost.memory / 1024:.1f}") for cost in costs])
    base = costs[0]
    each = Table(
        f"For each device beyond {base.devices}",
        ("devices", *(name.replace(" s", " ms") for name in COLUMNS), "KiB"),
        [(str(cost.devices), *(f"{_for_each(value(cost) - value(base), cost, base) * 1000:.2f}"
                               for value in COLUMNS.values()),
          f"{_for_each(cost.memory - base.memory, cost, base):.1f}") for cost in costs[1:]])
    return Report("The agent with many devices", {
        "decisions": decisions, "costs": [asdict(cost) for cost in costs]}, (rules, devices, each))


def _for_each(more: float, cost: Cost, base: Cost) -> float:
    return more / max(1, cost.devices - base.devices)


if __name__ == "__main__":
    sys.exit(main())
