"""From uevents to devices: who was plugged in, who was pulled out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Set
from typing import TypeVar

from usbip_agent.device import Device
from usbip_agent.device_side.agent import Agent
from usbip_agent.blocking import in_thread
from usbip_agent.errors import Fault
from usbip_agent.kernel.uevents import Action, Uevent, UeventMonitor, device_of_event, is_hub
from usbip_agent.kernel.vudc import Vudc

Result = TypeVar("Result")

log = logging.getLogger(__name__)


MODULES = ("usbip_host", "usbip_vudc")

READERS = 8
"""Devices that are read at the same time, but for those that take longer than ``SOON``."""

SOON = 1.0
"""Seconds. What takes longer hangs in the kernel, and is not to hold up others."""

START_PATIENCE = 5.0
"""Seconds that a start waits for what hangs."""

PAUSE = 5.0
"""Seconds until a thread is asked for again, where none was to be had."""


class DeviceWatch:
    """Tells the agent of USB devices and gadgets as they come and go, and of modules that it may wait for.

    Reading a device waits for its lock in the kernel, which a driver may hold for long, and a broken
    neighbour for longer: each is read in a thread of its own, for as long as it takes, and at most once at
    the same time. An event that came later wins over one that took longer to read.

    *on_unread* is told which of the devices that were found are not known yet: at the end of the start, and
    whenever all of them are. Whatever is neither these nor the agent's is not there.
    """

    def __init__(self, agent: Agent, vudc: Vudc, on_unread: Callable[[Set[str]], None]) -> None:
        self._agent = agent
        self._vudc = vudc
        self._on_unread = on_unread
        self._monitor = UeventMonitor(self._on_event, self._on_overrun, usb_devices=True)
        self._latest: dict[str, int] = {}
        self._serial = 0
        self._unread: dict[str, Uevent] = {}
        """What was told last of each device that is yet to be read."""
        self._being_read: set[str] = set()
        self._readers = asyncio.Semaphore(READERS)
        self._tasks: set[asyncio.Task[None]] = set()
        self._started = False

    async def start(self) -> None:
        """Listens first, then looks who is there already: nobody can slip in between."""
        self._monitor.start()
        await self._take_stock()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=START_PATIENCE)
        for name in self._unread:
            log.warning("%s: the kernel does not let us read it yet", name)
        self._started = True
        self._on_unread(self._unread.keys())

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
            self._unread.pop(name, None)
            self._agent.unplugged(name, event.device_number)
        else:
            self._look(event)

    def _on_overrun(self) -> None:
        log.warning("udev events were lost: looking at all devices again")
        self._spawn(self._take_stock())

    async def _take_stock(self) -> None:
        before = self._serial
        found = await self._in_thread("find devices", lambda: list(self._monitor.enumerate_usb_devices()))
        changed = {name for name, serial in self._latest.items() if serial > before}
        self._agent.present((), changed.union(event.name for event in found))
        for event in found:
            if event.name not in changed:
                self._look(event)

    def _look(self, event: Uevent) -> None:
        name = event.name
        self._unread[name] = event
        if name not in self._being_read:
            self._being_read.add(name)
            self._spawn(self._look_until_known(name))

    async def _look_until_known(self, name: str) -> None:
        try:
            while (event := self._unread.get(name)) is not None:
                device = await self._read(event)
                if self._unread.get(name) is event:
                    self._tell(name, device)
        finally:
            self._being_read.discard(name)

    def _tell(self, name: str, device: Device | None) -> None:
        del self._unread[name]
        if device is not None:
            self._agent.plugged(device)
        else:
            self._agent.unplugged(name)
        if self._started and not self._unread:
            self._on_unread(self._unread.keys())

    async def _read(self, event: Uevent) -> Device | None:
        """What *event* is about. A thousand devices take their turns, but not behind those that hang."""
        async with self._readers:
            reading = asyncio.ensure_future(self._in_thread(f"read {event.name}", lambda: self._ask(event)))
            await asyncio.wait({reading}, timeout=SOON)
        return await reading

    def _ask(self, event: Uevent) -> Device | None:
        if event.subsystem == "udc":
            return self._vudc.read(event.name)
        return None if is_hub(event.sys_path) else device_of_event(event)

    async def _in_thread(self, what: str, call: Callable[[], Result]) -> Result:
        while True:
            try:
                return await in_thread(what, call, deadline=None)
            except Fault as fault:
                log.warning("%s", fault)
                await asyncio.sleep(PAUSE)

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a device could not be looked at: %s", error)
