"""A short run of chaos; ``USBIP_CHAOS_SECONDS`` and ``USBIP_CHAOS_SEED`` make it longer, or another one."""
from __future__ import annotations

import os

from . import chaos
from .pair import Pair
from .report import say


def test_everything_comes_back_by_itself(pair: Pair) -> None:
    seed = int(os.environ.get("USBIP_CHAOS_SEED", "1"))
    survived = chaos.run(pair, seed, float(os.environ.get("USBIP_CHAOS_SECONDS", "240")))
    say(f"survived {sum(survived.values())} faults: {dict(survived)}")
    assert sum(survived.values()) >= 3
