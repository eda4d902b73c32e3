"""What udev is told of the policy, and which devices are examined for the mark that they should have."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.device_side.samples import LAB, NOWHERE, STICK, TO_LAB, Time
from usbip_agent.device_side import claims
from usbip_agent.device_side.claim_rules import UDEV_CLAIMED, claim_rules
from usbip_agent.device_side.claims import Claims
from usbip_agent.device_side.export import Export
from usbip_agent.errors import KernelFault
from usbip_agent.kernel.udev_rules import UdevRules
from usbip_agent.policy.agent import AgentPolicy
from usbip_agent.report import ExportState

DIRECTORY = Path("/sys/devices/usb1/1-1")
WAITING = Export(replace(STICK, sys_path=str(DIRECTORY)), TO_LAB, Time().clocks, state=ExportState.WAITING)
EVERYTHING = AgentPolicy(node="n", hosts=(LAB,), default_hosts=(LAB,))
NOTHING = AgentPolicy(node="n", hosts=(LAB,))
DEADLINE = 20.0
NOBODY: frozenset[str] = frozenset()


class Udev(UdevRules):
    """Hears what is put, and what is mended."""

    def __init__(self) -> None:
        self.heard: list[str | dict[Path, bool]] = []
        self.fails = False
        self.text = ""

    async def put(self, text: str) -> bool:
        if self.fails:
            raise KernelFault("writing rules: No space left on device", errno=errno.ENOSPC)
        self.heard.append(text)
        before, self.text = self.text, text
        return text != before

    async def mend(self, mark: str, expected: Mapping[Path, bool]) -> None:
        assert mark == UDEV_CLAIMED
        self.heard.append(dict(expected))


@pytest.fixture
def udev(monkeypatch: pytest.MonkeyPatch) -> Udev:
    heard = Udev()
    monkeypatch.setattr(claims, "mend_marks", heard.mend)
    return heard


async def test_a_device_is_examined_once_under_the_same_rules(udev: Udev) -> None:
    ours = Claims(udev)
    await ours.claim(EVERYTHING, NOBODY)
    rules = claim_rules(EVERYTHING, NOBODY)
    ours.examine((WAITING,))
    await ours.settled()
    assert udev.heard == [rules, {DIRECTORY: True}]
    ours.examine((WAITING,))
    await ours.claim(replace(EVERYTHING), NOBODY)  # read again, with nothing new in it
    assert udev.heard == [rules, {DIRECTORY: True}, rules]


async def test_what_was_examined_is_so_again_when_the_rules_change(udev: Udev) -> None:
    ours = Claims(udev)
    await ours.claim(EVERYTHING, NOBODY)
    ours.examine((WAITING,))
    await ours.settled()
    await ours.claim(NOTHING, NOBODY)
    assert udev.heard[2:] == ["", {DIRECTORY: True}]
    await ours.claim(EVERYTHING, frozenset({"1-1"}))
    assert udev.heard[4:] == [claim_rules(EVERYTHING, {"1-1"}), {DIRECTORY: True}]


async def test_what_a_reload_connects_is_marked_once_it_is_applied(udev: Udev) -> None:
    """udev is told first; the device that was ignored until then has its new decision later."""
    export = replace(WAITING, decision=NOWHERE, state=ExportState.IGNORED)
    ours = Claims(udev)
    await ours.claim(NOTHING, NOBODY)
    ours.examine((export,))
    await ours.claim(EVERYTHING, NOBODY)
    export.decision, export.state = TO_LAB, ExportState.WAITING
    ours.examine((export,))
    await ours.settled()
    assert udev.heard[-1] == {DIRECTORY: True}


async def test_the_loop_goes_on_while_rules_are_composed_and_the_latest_count(
        udev: Udev, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, goes_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def slowly(policy: AgentPolicy, held: frozenset[str]) -> str:
        loop.call_soon_threadsafe(begun.set)
        assert goes_on.wait(DEADLINE)
        return claim_rules(policy, held)

    monkeypatch.setattr(claims, "claim_rules", slowly)
    ours = Claims(udev)
    ours.follow(EVERYTHING, NOBODY)
    await asyncio.wait_for(begun.wait(), DEADLINE)
    ours.follow(EVERYTHING, frozenset({"1-1"}))
    goes_on.set()
    await asyncio.wait_for(ours.settled(), DEADLINE)
    assert udev.heard[-1] == claim_rules(EVERYTHING, {"1-1"})
    await ours.withdraw((WAITING,))
    assert udev.heard[-2:] == ["", {DIRECTORY: False}]


async def test_a_failure_is_said_and_the_next_rules_are_told(
        udev: Udev, caplog: pytest.LogCaptureFixture) -> None:
    ours = Claims(udev)
    udev.fails = True
    await ours.claim(EVERYTHING, NOBODY)
    assert "not told to leave exported devices alone: writing rules: No space left" in caplog.text
    udev.fails = False
    await ours.withdraw(())
    assert udev.heard == [""]
