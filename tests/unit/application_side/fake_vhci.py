"""vhci-hcd without a kernel: keeps a dup of each attached socket, as the kernel keeps its reference."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from usbip_agent.application_side.imports import Import, Offer
from usbip_agent.application_side.records import Record
from usbip_agent.device import Device, Kind, Speed
from usbip_agent.errors import DeadlineFault, KernelFault, ModuleFault
from usbip_agent.kernel.device_nodes import NOTHING, Appearance
from usbip_agent.kernel.vhci import Hub, PortRow, PortState

PORTS_OF_A_HUB = 32


def device(bus_id: str = "1-1", number: int = 2, speed: Speed = Speed.HIGH, vendor: str = "10c4") -> Device:
    return Device(Kind.USB, bus_id, 1, number, speed, vendor, "ea60")


def offer(a_device: Device | None = None, *, address: str = "10.9.0.7", node: str | None = None,
          certificate: str = "") -> Offer:
    return Offer(a_device or device(), address, f"{address}:40312", "plain", node, certificate)


@dataclass
class Attachment:
    """What is attached to a port."""

    kernels: socket.socket
    descriptor: int
    devid: int
    speed: Speed


@dataclass
class FakeVhci:
    """Ports 0 to 31 high speed, 32 to 63 SuperSpeed. Has what ``life.Ports`` wants, and levers for tests."""

    attached: dict[int, Attachment] = field(default_factory=dict)
    loaded: bool = True
    taken_elsewhere: set[int] = field(default_factory=set)
    """Ports that ``usbip attach`` has, and that the table shows."""
    busy: set[int] = field(default_factory=set)
    """Ports that look free and are not, when it comes to it."""
    refuse: int = 0
    """The errno of every attach."""
    on_attach: Callable[[int], None] = lambda port: None
    attempts: list[int] = field(default_factory=list)
    detached: list[int] = field(default_factory=list)
    state: PortState = PortState.USED
    enumerated: set[str] = field(default_factory=set)
    """The local busids that the USB core has devices with."""

    def rows(self) -> Iterator[PortRow]:
        if not self.loaded:
            raise ModuleFault("vhci-hcd is not loaded")
        for port in range(2 * PORTS_OF_A_HUB):
            yield self._row(port)

    def row(self, port: int) -> PortRow | None:
        return self._row(port)

    def local_bus_id(self, port: int, hub: Hub) -> str:
        return f"{3 if hub is Hub.HIGH else 4}-{port % PORTS_OF_A_HUB + 1}"

    def is_enumerated(self, local_bus_id: str) -> bool:
        return local_bus_id in self.enumerated

    def attach(self, port: int, descriptor: int, devid: int, speed: Speed) -> None:
        self.on_attach(port)
        self.attempts.append(port)
        if self.refuse:
            raise KernelFault(os.strerror(self.refuse), errno=self.refuse)
        if not self._row(port).is_free or port in self.busy:
            raise KernelFault("taken", errno=errno.EBUSY)
        self.attached[port] = Attachment(
            socket.socket(fileno=os.dup(descriptor)), descriptor, devid, speed)

    def detach(self, port: int) -> None:
        self.detached.append(port)
        if port not in self.attached:
            raise KernelFault("not attached", errno=errno.EINVAL)
        self.end(port)

    async def until(self, what: str, port: int, holds: Callable[[PortRow | None], bool], *,
                    deadline: float) -> PortRow | None:
        async def look() -> PortRow:
            while not holds(row := self._row(port)):
                await asyncio.sleep(0)
            return row
        try:
            return await asyncio.wait_for(look(), deadline)
        except TimeoutError:
            raise DeadlineFault(f"port {port}: {what}") from None

    def end(self, port: int) -> None:
        """The kernel lets go of what is attached to *port*."""
        gone = self.attached.pop(port)
        try:
            gone.kernels.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        gone.kernels.close()

    def close(self) -> None:
        for port in tuple(self.attached):
            self.end(port)

    def _row(self, port: int) -> PortRow:
        hub = Hub.HIGH if port < PORTS_OF_A_HUB else Hub.SUPER
        if port in self.attached:
            poller = select.poll()
            poller.register(self.attached[port].kernels, select.POLLRDHUP)
            if poller.poll(0):
                self.end(port)  # as the kernel's reading thread does
        if port in self.taken_elsewhere:
            return PortRow(port, hub, PortState.USED, Speed.HIGH, 0x30007, 3, "9-9")
        found = self.attached.get(port)
        if found is None:
            return PortRow(port, hub, PortState.FREE, Speed.UNKNOWN, 0, 0, "")
        if self.state is not PortState.USED:
            return PortRow(port, hub, self.state, Speed.UNKNOWN, 0, 0, "")
        return PortRow(port, hub, PortState.USED, found.speed, found.devid, found.descriptor,
                       self.local_bus_id(port, hub))


@dataclass
class FakeRecords:
    kept: dict[int, Record] = field(default_factory=dict)

    def write(self, record: Record) -> None:
        self.kept[record.port] = record

    def drop(self, port: int) -> None:
        self.kept.pop(port, None)


@dataclass
class FakeStore:
    kept: set[str] = field(default_factory=set)

    def store(self, name: str, descriptor: int) -> None:
        self.kept.add(name)

    def forget(self, name: str) -> None:
        self.kept.discard(name)


@dataclass
class FakeAppearances:
    known: dict[str, Appearance] = field(default_factory=dict)

    def of(self, local_bus_id: str) -> Appearance:
        return self.known.get(local_bus_id, NOTHING)

    def forget(self, local_bus_id: str) -> None:
        self.known.pop(local_bus_id, None)


@dataclass
class FakeDisplay:
    shown: dict[int, Import] = field(default_factory=dict)
    history: list[tuple[int, str]] = field(default_factory=list)

    def show(self, entry: Import) -> None:
        self.shown[entry.port] = entry
        self.history.append((entry.port, str(entry.state)))

    def hide(self, port: int) -> None:
        if self.shown.pop(port, None) is not None:
            self.history.append((port, "hidden"))
