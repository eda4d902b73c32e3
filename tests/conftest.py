"""What holds for the tests of every tier."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes says more of the machine than of the code.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")

ENDING = 5.0
"""Seconds that a thread may take from being told to end to its end."""


def _children() -> set[int]:
    """Process ids of our children, ended but not waited for included."""
    mine, children = str(os.getpid()), set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            # pid (name, which may hold anything) state parent …
            described = (process / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        if described.rpartition(")")[2].split()[1] == mine:
            children.add(int(process.name))
    return children


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """A test that leaves a process or a thread behind fails, and not the one after it."""
    children, threads = _children(), set(threading.enumerate())
    yield
    left = [f"process {child}" for child in sorted(_children() - children)]
    for thread in set(threading.enumerate()) - threads:
        # An event loop keeps the threads of its pool, idle, until it is closed.
        if not (thread.daemon or thread.name.startswith("asyncio_")):
            thread.join(ENDING)
            left += [f"thread {thread.name}"] if thread.is_alive() else []
    assert not left, f"left behind by this test: {', '.join(left)}"
