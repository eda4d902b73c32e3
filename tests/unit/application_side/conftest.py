"""A whole application side for every test, and nothing left of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.unit.application_side.side import Side
from tests.unit.application_side.visitors import Guests
from usbip_agent.application_side.listener import Listeners


@pytest.fixture
async def side() -> AsyncIterator[Side]:
    made = Side()
    made.start()
    yield made
    await made.stop()
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    assert not left


@pytest.fixture
def guests() -> Guests:
    return Guests()


@pytest.fixture
async def listeners(guests: Guests) -> AsyncIterator[Listeners]:
    made = Listeners(guests.serve)
    yield made
    await made.close()
