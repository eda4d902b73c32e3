"""Calls in threads, one for each device."""

from __future__ import annotations

import asyncio
import threading

import pytest

from tests.unit.device_side.world import PATIENCE, until
from usbip_agent import blocking
from usbip_agent.blocking import Turn, in_thread, in_turn
from usbip_agent.errors import DeadlineFault, Fault


async def test_no_thread_to_be_had_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")
    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(Fault, match="^open 1-1: can't start new thread$"):
        await in_thread("open 1-1", lambda: None)


async def test_each_device_has_its_turns_one_after_the_other() -> None:
    begun: list[str] = []
    go_on = asyncio.Event()

    async def work(turn: Turn) -> str:
        begun.append(turn.what)
        await go_on.wait()
        return turn.what

    waiting = [asyncio.create_task(in_turn(what, device, work))
               for what, device in (("open", "1-1"), ("bind", "1-1"), ("open", "1-2"))]
    await until(lambda: len(begun) == 2)
    assert begun == ["open 1-1", "open 1-2"]
    with pytest.raises(DeadlineFault, match="^open 1-1: the kernel has not answered since"):
        await in_turn("forget", "1-1", work, deadline=0.01)
    go_on.set()
    assert await asyncio.gather(*waiting) == ["open 1-1", "bind 1-1", "open 1-2"]
    assert not blocking._turns


async def test_who_is_patient_gets_the_turn_of_one_that_was_given_up(
        caplog: pytest.LogCaptureFixture) -> None:
    go_on = asyncio.Event()

    async def work(turn: Turn) -> bool:
        await go_on.wait()
        turn.check()
        return True

    with pytest.raises(DeadlineFault):
        await in_turn("bind", "1-1", work, deadline=0.01)
    async with asyncio.timeout(PATIENCE):  # less than its deadline
        with pytest.raises(DeadlineFault):
            await in_turn("bind", "1-1", work)
    patient = asyncio.create_task(in_turn("forget", "1-1", work, patient=True))
    await asyncio.sleep(0)
    go_on.set()
    assert await patient
    assert "given up meanwhile, has ended: nothing more was done" in caplog.text
