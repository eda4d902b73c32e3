"""What udev says late, of a device whose place has been taken; and a clock that is set."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.device_side.samples import LAB, STICK, TO_LAB, Time, failed
from tests.unit.device_side.world import World, policy, until
from usbip_agent.device_side.actions import StartAttempt
from usbip_agent.device_side.clocks import Clocks
from usbip_agent.device_side.export import Export
from usbip_agent.device_side.summary import summary
from usbip_agent.errors import UnreachableFault

YEAR = 366 * 24 * 3600


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    async def nobody_uses_it(*_arguments: object) -> None: ...

    monkeypatch.setattr("usbip_agent.device_side.guard.Guard.examine", nobody_uses_it)
    made = World(tmp_path, policy(LAB))
    yield made
    await made.close()


@pytest.mark.parametrize("state", ["connecting", "connected"])
async def test_one_that_is_there_after_all_is_not_lost(world: World, state: str) -> None:
    world.agent.plugged(STICK)
    await world.until(state)
    world.agent.unplugged("1-1")
    world.agent.plugged(STICK)
    await until(lambda: "forget" in world.kernel.done and world.kernel.done[-1] == "hand over")
    await world.until("connected")


async def test_the_end_of_the_one_before_is_not_that_of_its_successor(world: World) -> None:
    world.agent.plugged(STICK)
    await world.until("connected")
    world.agent.unplugged("1-1", STICK.device_number - 1)
    world.agent.plugged(replace(STICK, device_number=STICK.device_number + 1))
    world.agent.unplugged("1-1", STICK.device_number)  # the first one's end comes after that of its place
    await until(lambda: world.kernel.done.count("hand over") == 2)
    await world.until("connected")
    world.agent.unplugged("1-1", STICK.device_number + 1)
    await until(lambda: not world.reports)


@pytest.mark.parametrize("seconds", [-YEAR, YEAR])
def test_a_clock_that_is_set_neither_hastens_nor_delays(seconds: int) -> None:
    time, set_by = Time(), 0
    clocks = Clocks(time.clocks.monotonic, lambda: time.clocks.wall() + set_by, time.clocks.chance)
    export = Export(STICK, TO_LAB, clocks)
    export.begin()
    assert failed(export, UnreachableFault("away")) == 1.0
    assert summary([export.report()], clocks.wall()) == "1 waiting (away, next try in 1 s)"
    set_by = seconds * 1_000_000
    assert summary([export.report()], clocks.wall()) == "1 waiting (away)"
    assert export.timer_due() == (StartAttempt(STICK, (LAB,)),)
    assert failed(export, UnreachableFault("away")) == 2.0
    assert summary([export.report()], clocks.wall()) == "1 waiting (away, next try in 2 s)"
