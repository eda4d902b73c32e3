"""No looking for garbage while a configuration is read."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

MANY = 100_000
"""Values that are worth it: whatever garbage is there just then is frozen with them, for good."""


@contextmanager
def without_collector() -> Iterator[None]:
    """A big configuration makes values by the million, which all stay, and no garbage that has to be found.

    Python's collector goes through all of them again and again: half of the time that 10 MB take, and for
    seconds at once nobody else in the process moves. Nor does it go through them later.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if gc.get_count()[0] > MANY:
            gc.freeze()
        if was_enabled:
            gc.enable()
