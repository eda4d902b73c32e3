"""After a cable, a power cut, a crash or a reboot: how long until everything is as it was.

What is measured how stands in the files of ``recoveries``. Everything is stamped in the guests, by their
kernels where these know; nothing is found out by asking again and again.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any

from tests.bench.figures import Report, Table
from tests.bench.laboratory import Laboratory, tell
from tests.bench.recoveries import cable, crash, reboot, silence
from tests.bench.recoveries.ground import DEAD_AFTER
from tests.bench.recoveries.rounds import HEAD, Recovery

ORDER = 5
KINDS: Mapping[str, Callable[[Laboratory, int], list[Recovery]]] = {
    "cable": cable.measure, "silence": silence.measure, "crash": crash.measure, "reboot": reboot.measure}
ROUNDS = {"cable": 10, "silence": 10, "crash": 10, "reboot": 5}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--faults", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND",
                        help=f"which: {', '.join(KINDS)} (all)")
    parser.add_argument("--rounds", type=int, metavar="N", help="faults of each kind, on each side ("
                        + ", ".join(f"{kind} {count}" for kind, count in ROUNDS.items()) + ")")


def measure(laboratory: Laboratory, options: argparse.Namespace) -> Report:
    found: list[Recovery] = []
    for kind in options.faults:
        tell(f"recovery: {kind}")
        found += KINDS[kind](laboratory, options.rounds or ROUNDS[kind])
    waited = sorted(one.waited for recovery in found for one in recovery.rounds)
    figures: dict[str, Any] = {recovery.name: recovery.figures() for recovery in found}
    return Report(
        "Until everything is as it was",
        {**figures, "dead_after": DEAD_AFTER, "waited": waited},
        [Table("Seconds", HEAD, [recovery.row() for recovery in found]),
         *(recovery.course() for recovery in found)],
        [aim for recovery in found for aim in recovery.judged()],
        [f"dead_after is {DEAD_AFTER} s on both sides.",
         f"The guests waited for a processor of this machine for {waited[len(waited) // 2]:.0%} of a "
         f"recovery in the middle, and {waited[-1]:.0%} at most.",
         "The floor of a cable is a connection that is made without a fault, that of a killed daemon is a "
         "bare Python with the daemon's imports, that of a reboot is the boot until usbipa is ready. "
         "\"Beyond\" is taken round by round."])
