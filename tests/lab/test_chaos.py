"""A short run of chaos; ``USBIP_CHAOS_SECONDS``, ``_SEED`` and ``_TRANSPORT`` make it another one."""
from __future__ import annotations

import os

from . import chaos
from .pair import Pair
from .report import say


def test_everything_comes_back_by_itself(pair: Pair) -> None:
    chosen = {name: os.environ.get(f"USBIP_CHAOS_{name}", default)
              for name, default in (("SECONDS", "240"), ("SEED", "1"), ("TRANSPORT", "tls"))}
    world = chaos.run(pair, int(chosen["SEED"]), float(chosen["SECONDS"]), chosen["TRANSPORT"])
    say(chaos.told(world))
    assert sum(world.survived.values()) >= 3
