"""From uevents to devices: who was plugged in, who was pulled out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine

from usbip_agent.device import Device
from usbip_agent.device_side.agent import Agent
from usbip_agent.blocking import in_thread
from usbip_agent.kernel.uevents import Action, Uevent, UeventMonitor, device_of_event
from usbip_agent.kernel.vudc import Vudc

log = logging.getLogger(__name__)


MODULES = ("usbip_host", "usbip_vudc")


class DeviceWatch:
    """Tells the agent of USB devices and gadgets as they come and go, and of modules that it may wait for.

    Reading a device waits for its lock in the kernel, which a driver may hold for long: each is read in a
    thread of its own. An event that came later wins over one that took longer to read.
    """

    def __init__(self, agent: Agent, vudc: Vudc) -> None:
        self._agent = agent
        self._vudc = vudc
        self._monitor = UeventMonitor(self._on_event, self._on_overrun, usb_devices=True)
        self._latest: dict[str, int] = {}
        self._serial = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listens first, then looks who is there already: nobody can slip in between."""
        self._monitor.start()
        await self._take_stock()

    def close(self) -> None:
        self._monitor.close()
        for task in self._tasks:
            task.cancel()

    def _on_event(self, event: Uevent) -> None:
        name = event.name
        if event.subsystem == "module":
            if event.action is Action.ADD and name in MODULES:
                self._agent.try_now()
            return
        if event.subsystem == "usb" and event.action not in (Action.ADD, Action.REMOVE):
            return  # bind, unbind and change are the echo of what we do ourselves
        self._serial += 1
        self._latest[name] = self._serial
        if event.action is Action.REMOVE:
            self._agent.unplugged(name, event.device_number)
        else:
            self._spawn(self._look_at(event, self._serial))

    def _on_overrun(self) -> None:
        log.warning("udev events were lost: looking at all devices again")
        self._spawn(self._take_stock())

    async def _look_at(self, event: Uevent, serial: int) -> None:
        device = await in_thread(f"read {event.name}", lambda: self._read(event))
        if self._latest.get(event.name) != serial:
            return
        if device is not None:
            self._agent.plugged(device)
        else:
            self._agent.unplugged(event.name)

    async def _take_stock(self) -> None:
        before = self._serial
        devices = await in_thread("enumerate", self._read_all)
        changed = {name for name, serial in self._latest.items() if serial > before}
        self._agent.present([device for device in devices if device.bus_id not in changed], changed)

    def _read_all(self) -> list[Device]:
        found = (self._read(event) for event in self._monitor.enumerate_usb_devices())
        return [device for device in found if device is not None]

    def _read(self, event: Uevent) -> Device | None:
        return self._vudc.read(event.name) if event.subsystem == "udc" else device_of_event(event)

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a device could not be looked at: %s", error)
