"""The life of one import: attached, watched, ended, and its port seen free again.

Each import has one task from the moment it is taken, and nobody else touches its port. Who wants it ended
says so and waits. Cancelling the task leaves the kernel as it is: so a restart leaves devices attached.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from usbip_agent.application_side.adoption import stored_name
from usbip_agent.application_side.imports import Import, Imports
from usbip_agent.application_side.records import Record, RecordKeeping
from usbip_agent.device import Speed
from usbip_agent.errors import DeadlineFault, Fault, KernelFault
from usbip_agent.blocking import in_thread
from usbip_agent.kernel.device_nodes import Appearance
from usbip_agent.kernel.vhci import Hub, PortRow, PortState
from usbip_agent.names import Journal
from usbip_agent.report import ImportState
from usbip_agent.service import journal
from usbip_agent.transport.stream import Stream, shut_down
from usbip_agent.transport.watch import LinkWatcher, keep

log = logging.getLogger(__name__)

RELEASE_DEADLINE = 10.0
"""Seconds for the kernel to free a port that was told to detach."""

OWN_RELEASE_DEADLINE = 2.0
"""Seconds for it to free one whose link has ended, before it is told to."""

END_DEADLINE = 3 * RELEASE_DEADLINE
"""Seconds for the end of an import altogether."""

SETTLE_INTERVAL = 5.0
"""Seconds after which, without a word from udev, the kernel is asked whether the device is there."""

SETTLE_DEADLINE = 90.0
"""Seconds for a device to be enumerated, at first and after it has gone. The USB core gives a silent one up
after four tries (hub_port_connect in drivers/usb/core/hub.c); then the port would stay taken by nothing."""

NOT_READY_PAUSES = (0.1, 0.4)
"""Seconds before an attach is tried again on a controller that says EAGAIN."""


class Ports(Protocol):
    """What is needed of vhci (``kernel.vhci.Vhci``)."""

    def rows(self) -> Iterator[PortRow]: ...
    def row(self, port: int) -> PortRow | None: ...
    def local_bus_id(self, port: int, hub: Hub) -> str: ...
    def is_enumerated(self, local_bus_id: str) -> bool: ...
    def attach(self, port: int, descriptor: int, devid: int, speed: Speed) -> None: ...
    def detach(self, port: int) -> None: ...
    async def until(self, what: str, port: int, holds: Callable[[PortRow | None], bool], *,
                    deadline: float) -> PortRow | None: ...


class DescriptorStore(Protocol):
    """What is needed of systemd (``service.notify.Notifier``)."""

    def store(self, name: str, descriptor: int) -> None: ...
    def forget(self, name: str) -> None: ...


class Appearances(Protocol):
    """What is needed of udev (``kernel.device_nodes.DeviceNodes``)."""

    def of(self, local_bus_id: str) -> Appearance: ...
    def forget(self, local_bus_id: str) -> None: ...


class Display(Protocol):
    """Who is told of changes."""

    def show(self, entry: Import) -> None: ...
    def hide(self, port: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all imports share."""

    imports: Imports
    ports: Ports
    records: RecordKeeping
    store: DescriptorStore
    appearances: Appearances
    display: Display
    watcher: LinkWatcher


class Life:
    """One import from its reservation on. ``port`` may change until it is attached (EBUSY)."""

    def __init__(self, around: Surroundings, port: int, on_gone: Callable[[Life], None]) -> None:
        self.port = port
        self._around = around
        self._on_gone = on_gone
        self._descriptor = 0
        self._attached = False
        self._detach_first = True
        self._link: socket.socket | None = None
        self._ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._gone = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._settling: asyncio.Task[None] | None = None

    @property
    def is_busy(self) -> bool:
        """Whether the kernel is being told something just now."""
        return self._task is not None and (self._ended.done() or not self._attached)

    def take(self, stream: Stream) -> None:
        """Attaches *stream*, which is this import's from now on."""
        self._around.display.show(self._entry)
        self._start(self._live(stream))

    def abandon(self) -> None:
        """Gives the reserved port back: there will be no device."""
        self._release()

    def adopt(self, descriptor: int, link: socket.socket | None) -> None:
        """Goes on from an attachment that an earlier process made through its socket *descriptor*."""
        self._descriptor, self._link, self._attached = descriptor, link, True
        self._start(self._go_on("adopted"))

    def end(self, reason: str, *, detach_first: bool = True) -> None:
        """Asks for the end; the first reason stands.

        *detach_first* is False when the link has ended: then the kernel frees the port without being told.
        """
        if not self._ended.done():
            self._detach_first = detach_first
            self._ended.set_result(reason)

    async def wait_gone(self, deadline: float = END_DEADLINE) -> None:
        """Returns when the port is free. DeadlineFault after *deadline* seconds."""
        try:
            async with asyncio.timeout(deadline):
                await self._gone.wait()
        except TimeoutError:
            raise DeadlineFault(f"port {self.port} is not free after {deadline:g} s",
                                hint="the kernel's log may tell why: journalctl -k") from None

    async def leave(self, deadline: float) -> None:
        """Stops caring, and leaves the port, the record and the stored link to the next process.

        An attach or detach that is under way gets *deadline* seconds to be done.
        """
        if self._task is not None and self.is_busy:
            await asyncio.wait([self._task], timeout=deadline)
        tasks = [task for task in (self._task, self._settling) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._link is not None:
            self._around.watcher.unwatch(self._link)
            self._link.close()

    def look(self) -> None:
        """udev has news of it. The device itself being there is what "attached" means."""
        if not self._attached or self._gone.is_set():
            return
        entry = self._entry
        seen = self._around.appearances.of(entry.local_bus_id)
        state, ports = entry.state, self._around.ports
        if seen.present and state is ImportState.ATTACHING and _has_address(ports.row(self.port)):
            state = ImportState.ATTACHED
            self._stop_settling()
        elif not seen.present and state is ImportState.ATTACHED:
            state = ImportState.ATTACHING
            self._settle(OWN_RELEASE_DEADLINE)
        self._put(replace(entry, state=state, model=seen.model or entry.model,
                          device_nodes=seen.device_nodes))

    # Its course, in the order in which it happens.

    @property
    def _entry(self) -> Import:
        return self._around.imports.at(self.port)

    def _put(self, entry: Import) -> None:
        self._around.imports.put(entry)
        self._around.display.show(entry)

    def _start(self, course: Coroutine[None, None, None]) -> None:
        self._task = asyncio.create_task(course)
        self._task.add_done_callback(self._look_back)

    def _look_back(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            log.error("port %d: an error of usbipa's own", self.port, exc_info=task.exception())
            self._clear_away()

    async def _live(self, stream: Stream) -> None:
        self._descriptor = stream.socket.fileno()
        self._link = keep(stream.socket)
        try:
            await self._attach()
        except Fault as fault:
            self.end(f"could not be attached: {fault}")
            if isinstance(fault, DeadlineFault):
                # The thread is still in the kernel with this number: it must not become another socket's.
                self._attached = True
                stream.socket.detach()
        stream.socket.close()
        await self._go_on("attached")
        await stream.end_relay()

    async def _attach(self) -> None:
        """To another port where somebody else was quicker. KernelFault, NoFreePortFault, DeadlineFault."""
        entry = self._entry
        pauses = iter(NOT_READY_PAUSES)
        while not (self._attached or self._ended.done()):
            self._around.records.write(Record(
                entry.port, self._descriptor, entry.offer, entry.rule, entry.since))
            try:
                await self._attach_to(entry)
                self._attached = True
            except KernelFault as fault:
                pause = next(pauses, None) if fault.errno == errno.EAGAIN else None
                if fault.errno == errno.EBUSY:
                    entry = self._move()
                elif pause is not None:
                    await asyncio.sleep(pause)
                else:
                    raise
        local_bus_id = self._around.ports.local_bus_id(entry.port, entry.hub)
        self._around.imports.put(replace(entry, local_bus_id=local_bus_id))

    async def _attach_to(self, entry: Import) -> None:
        ports, offer, descriptor = self._around.ports, entry.offer, self._descriptor
        await in_thread(f"attach {entry.port}", lambda: ports.attach(
            entry.port, descriptor, offer.devid, offer.device.speed))

    def _move(self) -> Import:
        log.info("port %d has been taken by somebody else; taking another", self.port)
        old, around = self.port, self._around
        moved = around.imports.move(old, around.ports.rows())
        self.port = moved.port
        around.records.drop(old)
        around.display.hide(old)
        around.display.show(moved)
        return moved

    async def _go_on(self, how: str) -> None:
        """From the attachment to the free port."""
        if self._attached and not self._ended.done():
            self._tell(logging.INFO, f"{how} {self._entry.offer.description} on port {self.port}", how)
            self._watch_it()
        reason = await self._ended
        self._stop_settling()
        self._put(replace(self._entry, state=ImportState.DETACHING))
        if self._attached:
            await self._free()
        self._tell(logging.INFO if self._attached else logging.ERROR,
                   f"ended {self._entry.offer.description} on port {self.port}: {reason}", "detached", reason)
        self._clear_away()

    def _watch_it(self) -> None:
        if self._link is not None:
            self._around.watcher.watch(self._link, lambda: self.end("the link has ended", detach_first=False))
            self._around.store.store(stored_name(self.port), self._link.fileno())
        self.look()
        if self._entry.state is ImportState.ATTACHING:
            self._settle()

    async def _free(self) -> None:
        """Returns when the port carries this import no more, or the kernel holds it past all deadlines."""
        deadline = OWN_RELEASE_DEADLINE
        if self._detach_first:
            await self._detach()
            deadline = RELEASE_DEADLINE
        if self._link is not None:
            shut_down(self._link)
        for last in (False, True):
            try:
                await self._until_released(deadline)
                return
            except DeadlineFault as fault:
                if last:
                    log.error("%s", fault)
                    return
            await self._detach()
            deadline = RELEASE_DEADLINE

    async def _detach(self) -> None:
        if not self._is_ours(self._around.ports.row(self.port)):
            return  # free already, and perhaps somebody else's by now
        port, ports = self.port, self._around.ports
        try:
            await in_thread(f"detach {port}", lambda: ports.detach(port), deadline=RELEASE_DEADLINE)
        except Fault as fault:
            log.debug("%s", fault)  # EINVAL: it was quicker; all else the wait will tell

    async def _until_released(self, deadline: float) -> None:
        await self._around.ports.until("its release", self.port, lambda row: not self._is_ours(row),
                                       deadline=deadline)

    def _is_ours(self, row: PortRow | None) -> bool:
        return row is not None and row.may_carry(self._entry.offer.devid, self._descriptor)

    def _clear_away(self) -> None:
        around = self._around
        self._stop_settling()
        if self._link is not None:
            around.watcher.unwatch(self._link)
            shut_down(self._link)
            self._link.close()
            around.store.forget(stored_name(self.port))
        around.records.drop(self.port)
        if self.port in around.imports:
            around.appearances.forget(self._entry.local_bus_id)
        self._release()
        around.display.hide(self.port)

    def _release(self) -> None:
        self._around.imports.release(self.port)
        self._gone.set()
        self._on_gone(self)

    # What is looked at meanwhile.

    def _settle(self, release: float = 0.0) -> None:
        """Has this import end unless its device comes in time, or comes back: it may only have been reset.

        For *release* seconds, first, the port is watched closely: a device that has gone is mostly the end.
        """
        async def look() -> None:
            try:
                await self._until_released(release)
            except DeadlineFault:
                await self._until_there()
            else:
                self.end("the device has gone", detach_first=False)

        if not self._ended.done():
            self._stop_settling()
            self._settling = asyncio.create_task(look())

    def _stop_settling(self) -> None:
        if self._settling is not None:
            self._settling.cancel()

    async def _until_there(self) -> None:
        """Asks the kernel, for when udev is not heard, and ends this import when the device's time is over.

        Its table alone is no answer: USED means an address, and vhci takes SET_ADDRESS for the device.
        """
        for _ in range(max(1, round(SETTLE_DEADLINE / SETTLE_INTERVAL))):
            await asyncio.sleep(SETTLE_INTERVAL)
            entry, row = self._entry, self._around.ports.row(self.port)
            if row is None or not self._is_ours(row):
                self.end("the link has ended", detach_first=False)
                return
            local_bus_id = row.local_bus_id or entry.local_bus_id
            if _has_address(row) and self._around.ports.is_enumerated(local_bus_id):
                self._put(replace(entry, state=ImportState.ATTACHED, local_bus_id=local_bus_id))
                return
        self.end(f"the device has not answered for {SETTLE_DEADLINE:g} s")

    def _tell(self, level: int, message: str, state: str, reason: str = "") -> None:
        entry = self._entry
        journal.transition(log, level, message, {
            Journal.BUS_ID: entry.offer.device.bus_id, Journal.NODE: entry.offer.node or "",
            Journal.PEER: entry.offer.peer, Journal.PORT: entry.port, Journal.RULE: entry.rule,
            Journal.STATE: state, Journal.REASON: reason,
        })


def _has_address(row: PortRow | None) -> bool:
    """Whether the device was enumerated on this very link, or is about to be.

    While another device keeps the USB core, what was on the port before stays, and is taken for what comes.
    """
    return row is not None and row.state == PortState.USED
