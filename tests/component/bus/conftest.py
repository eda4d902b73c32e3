"""A private bus for every test, and no task left behind on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from tests.component.bus.private_bus import PERMISSIVE, PrivateBus, private_bus


@pytest.fixture(autouse=True)
async def no_task_left_behind() -> AsyncIterator[None]:
    yield
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    assert not left, f"left behind by this test: {left}"


@pytest.fixture
def bus() -> Iterator[PrivateBus]:
    """A bus that lets everybody do everything: what is refused on it is refused by us."""
    with private_bus(PERMISSIVE) as running:
        yield running
