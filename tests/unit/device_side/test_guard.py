"""The guard: what it asks before a device is taken, and what ``force`` overrides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.device_side.samples import BACKUP, LAB, STICK
from usbip_agent.device import Kind
from usbip_agent.device_side import guard
from usbip_agent.device_side.guard import Guard
from usbip_agent.errors import BlockedFault, BusyFault, UnreachableFault
from usbip_agent.kernel.block_devices import BlockUsage, Mounted
from usbip_agent.kernel.usage import Usage, Way
from usbip_agent.policy.hosts import Host
from usbip_agent.transport.names import Endpoint

CARD = replace(STICK, sys_path="/sys/devices/card")


class System:
    """What stands on devices, and what was asked and done."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.usage = Usage()
        self.asked: list[str] = []
        self.done: list[str] = []
        self.busy = False
        patch.setattr(guard, "has_network_interface", lambda directory: True)
        patch.setattr(guard, "read_usage", self.read)
        patch.setattr(guard, "endpoints_of", self.resolve)
        patch.setattr(guard, "flush", self.flush)
        patch.setattr(guard, "keep_still", self.keep_still)

    def read(self, directory: Path, addresses: Sequence[str]) -> Usage:
        self.asked = list(addresses)
        return self.usage

    async def resolve(self, host: Host) -> tuple[Endpoint, ...]:
        if host.name == "gone":
            raise UnreachableFault("cannot resolve")
        return (Endpoint(host.address, host.port, 2, (), host.name),)

    async def flush(self, directory: Path) -> None:
        self.done.append(f"flush {directory}")

    async def keep_still(self, directory: Path) -> System:
        self.done.append(f"keep still {directory}")
        if self.busy:
            raise BusyFault("/dev/sda1: something has just begun to use it")
        return self

    async def end(self) -> None:
        self.done.append("end")


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> System:
    return System(monkeypatch)


async def test_the_ways_to_this_device_s_hosts_and_to_those_of_all_others(system: System) -> None:
    await Guard(False, lambda: (BACKUP,)).examine(CARD, (LAB,))
    assert system.asked == [LAB.address, BACKUP.address]
    system.usage = Usage(ways=(Way("eth1", BACKUP.address),))
    with pytest.raises(BlockedFault, match=f"eth1 carries the way to backup .{BACKUP.address}."):
        await Guard(False, lambda: (BACKUP,)).examine(CARD, (LAB,))


async def test_where_the_host_is_unknown_every_way_may_lead_there(system: System) -> None:
    system.usage = Usage(ways=(Way("eth1", ""),))
    await Guard().examine(CARD, (LAB,))
    with pytest.raises(BlockedFault, match="eth1 may carry the way to gone"):
        await Guard().examine(CARD, (Host("gone", "gone.example.net"),))


async def test_force_overrides_and_yet_loses_nothing(system: System) -> None:
    system.usage = Usage(BlockUsage((Mounted("/dev/sda1", "/srv"),)))
    with pytest.raises(BlockedFault, match="/dev/sda1 is mounted on /srv"):
        await Guard().examine(STICK, (LAB,))
    await Guard(forced=True).examine(STICK, (LAB,))
    async with Guard(forced=True).keeping_still(CARD):
        assert system.done == [f"flush {CARD.sys_path}"]


async def test_nothing_changes_between_the_look_and_the_bind(system: System) -> None:
    async with Guard().keeping_still(CARD):
        assert system.done == [f"keep still {CARD.sys_path}"]
    assert system.done.pop() == "end"
    with pytest.raises(ZeroDivisionError):
        async with Guard().keeping_still(CARD):
            raise ZeroDivisionError
    assert system.done.pop() == "end"
    system.busy = True
    with pytest.raises(BlockedFault, match="something has just begun to use it"):
        async with Guard().keeping_still(CARD):
            pytest.fail("it would have been taken")


async def test_a_gadget_carries_nothing_of_this_system(system: System) -> None:
    system.usage = Usage(BlockUsage((Mounted("/dev/sda1", "/srv"),)))
    gadget = replace(STICK, kind=Kind.VUDC)
    await Guard().examine(gadget, (LAB,))
    async with Guard().keeping_still(gadget):
        assert system.done == []
