"""The keeper of one device: what comes between the end of its work and the news of it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.device_side.samples import LAB, STICK, TO_LAB, Time
from usbip_agent.device import Device
from usbip_agent.device_side.actions import Connection
from usbip_agent.device_side.export import Export
from usbip_agent.device_side.standing import Work
from usbip_agent.device_side.keeper import Keeper, Surroundings
from usbip_agent.device_side.records import ExportRecord
from usbip_agent.errors import UnreachableFault
from usbip_agent.kernel.exporter import LinkStatus
from usbip_agent.policy.hosts import Host
from usbip_agent.report import ExportState
from usbip_agent.service.notify import Notifier
from usbip_agent.service.records import RecordStore
from usbip_agent.transport.stream import Stream
from usbip_agent.transport.watch import LinkWatcher


class Kernel:
    """A stub that holds nothing, and says what was asked of it."""

    def __init__(self) -> None:
        self.forgotten: list[Device] = []

    def require_module(self) -> None: ...

    def require_room(self, device: Device) -> None: ...

    def holds(self, device: Device) -> bool:
        return True  # so that no interlock is asked: this is about the keeper

    def is_present(self, device: Device) -> bool:
        return True

    def link_status(self, device: Device) -> LinkStatus:
        return LinkStatus.AVAILABLE

    async def claim(self, device: Device) -> None: ...

    async def hand_over(self, device: Device, link: socket.socket) -> None: ...

    async def give_back(self, device: Device) -> None: ...

    async def resume(self, device: Device) -> None: ...

    async def forget(self, device: Device) -> None:
        self.forgotten.append(device)


class Place:
    """A keeper and its surroundings; *dialled* is what becomes of each attempt."""

    def __init__(self, directory: Path, dialled: Callable[[], None]) -> None:
        self.kernel = Kernel()
        self.dropped = asyncio.Event()
        self.watcher = LinkWatcher()

        async def dial(host: Host) -> Stream:
            dialled()
            raise UnreachableFault(f"{host.name} is away")

        self.keeper = Keeper(Export(STICK, TO_LAB, Time().clocks), Surroundings(
            exporter_of=lambda device: self.kernel, dial=dial, watcher=self.watcher,
            records=RecordStore(directory, ExportRecord), notifier=Notifier(), hosts_in_use=lambda: (),
            on_change=lambda report: None, on_drop=lambda bus_id: self.dropped.set()))


@pytest.mark.parametrize("event", ["unplugged", "disconnect", "stop"])
async def test_an_event_between_the_end_of_work_and_its_news_does_not_cross_it(
        tmp_path: Path, event: str) -> None:
    loop = asyncio.get_running_loop()

    def happen() -> None:
        place.keeper.apply(getattr(place.keeper.export, event)())

    def soon() -> None:
        loop.call_soon(happen)

    place = Place(tmp_path, soon)

    place.keeper.begin()
    await asyncio.wait_for(place.keeper.settle(), 10)
    export = place.keeper.export
    assert export.work is Work.NONE
    assert (place.kernel.forgotten == [STICK]) is (event == "unplugged")
    assert place.dropped.is_set() is (event != "disconnect")
    assert export.state is ExportState.HELD or event != "disconnect"
    assert place.keeper._timer is None, "a timer of an attempt that is history"
    place.watcher.close()


async def test_who_asked_by_hand_hears_why_it_failed(tmp_path: Path) -> None:
    place = Place(tmp_path, lambda: None)
    with pytest.raises(UnreachableFault, match="lab is away"):
        await place.keeper.connect(LAB)
    place.keeper.abandon()
    place.watcher.close()


async def test_a_found_connection_without_its_link_is_ended_by_way_of_the_host(tmp_path: Path) -> None:
    dialled = asyncio.Event()
    place = Place(tmp_path, dialled.set)
    export = place.keeper.export
    export.claimed, export.connection = True, Connection(LAB, "plain", "10.0.0.1:3240")
    place.keeper.begin()
    await asyncio.wait_for(dialled.wait(), 10)
    await place.keeper.settle()
    assert export.report().peer == ""
    place.keeper.abandon()
    place.watcher.close()
