"""vhci-hcd: the virtual host controller that imported devices hang on.

Sources: drivers/usb/usbip/vhci_sysfs.c (tables, attach, detach), vhci_hcd.c and vhci.h (ports of a hub). A
port has one number over all controllers; each controller has two root hubs, one for high speed and below, one
for SuperSpeed, and ``attach`` looks at the hub that the *speed* names, ``detach`` at the one that the *port*
names: so a port must be chosen on the right hub.
"""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from pathlib import Path

from usbip_agent.device import Speed
from usbip_agent.errors import DeadlineFault, KernelFault, ModuleFault
from usbip_agent.kernel import sysfs

CONTROLLER_NAME = "vhci_hcd"
MODULE_HINT = "modprobe vhci-hcd; the package loads it at boot"

_FIRST_PAUSE = 0.01
_LONGEST_PAUSE = 0.25
"""Seconds between two looks at a table: a detach takes 20 to 300 ms (seen on 6.1 and 6.12)."""


class Hub(StrEnum):
    """The two root hubs of a controller, as the tables name them."""

    HIGH = "hs"
    SUPER = "ss"

    @classmethod
    def for_speed(cls, speed: Speed) -> Hub:
        """The hub whose ports take a device of *speed*."""
        return cls.SUPER if speed in (Speed.SUPER, Speed.SUPER_PLUS) else cls.HIGH


class PortState(IntEnum):
    """enum usbip_device_status (drivers/usb/usbip/usbip_common.h), the part that vhci uses."""

    FREE = 4
    NOT_ASSIGNED = 5
    """Attached, and the device has no address yet: the table shows neither its devid nor its socket."""
    USED = 6
    ERROR = 7


@dataclass(frozen=True, slots=True)
class PortRow:
    """One row of a table."""

    port: int
    hub: Hub
    state: int
    speed: Speed
    devid: int
    """busnum << 16 | devnum on the device side; 0 unless the state is USED."""
    descriptor: int
    """The socket's number in the process that attached, 0 unless USED, and on kernels that don't tell it."""
    local_bus_id: str
    """Empty unless USED."""

    @property
    def is_free(self) -> bool:
        return self.state == PortState.FREE

    def may_carry(self, devid: int, descriptor: int) -> bool:
        """Whether what is attached here may be *devid*, attached through *descriptor* (0 = not known).

        The kernel says no more of an attachment than this; while it has no address, not even that.
        """
        if self.state == PortState.USED:
            return self.devid == devid and (not descriptor or self.descriptor in (0, descriptor))
        return self.state in (PortState.NOT_ASSIGNED, PortState.ERROR)


def parse_status(text: str) -> tuple[PortRow, ...]:
    """The rows of one table. Split on white space: the columns have had several widths.

    ``hub port sta spd dev sockfd local_busid`` since 4.13; before, without ``hub``, since all ports were high
    speed, and with a socket's address. What is no row (the header among it) is passed over.
    """
    rows = []
    for line in text.splitlines():
        words = line.split()
        if words and words[0] not in (Hub.HIGH, Hub.SUPER):
            words.insert(0, Hub.HIGH)
        try:
            hub, port, state, speed, devid = Hub(words[0]), *map(int, words[1:4]), int(words[4], 16)
        except (ValueError, IndexError):
            continue
        used = state == PortState.USED
        socket = words[5] if used and len(words) > 5 else ""
        rows.append(PortRow(
            port, hub, state, Speed.from_number(speed), devid,
            int(socket) if socket.isdigit() and len(socket) < 10 else 0,
            words[6] if used and len(words) > 6 else ""))
    return tuple(rows)


class Vhci:
    """vhci-hcd on this machine. Reads are quick; ``attach`` and ``detach`` belong into a thread."""

    def __init__(self, sys: Path = sysfs.SYSFS) -> None:
        self._platform = sys / "devices/platform"
        self._devices = sys / "bus/usb/devices"
        self._directory = self._platform / f"{CONTROLLER_NAME}.0"

    @property
    def is_loaded(self) -> bool:
        return (self._directory / "attach").exists()

    def rows(self) -> Iterator[PortRow]:
        """Every port, controller by controller, each table read when its first row is asked for.

        ModuleFault without the module.
        """
        if not self.is_loaded:
            raise ModuleFault("the kernel module vhci-hcd is not loaded", hint=MODULE_HINT)
        yield from self._table(0)
        controller = 1
        while (self._directory / f"status.{controller}").exists():
            yield from self._table(controller)
            controller += 1

    def row(self, port: int) -> PortRow | None:
        """The row of *port*; None when there is no such port, or no module."""
        try:
            controller, _hub_port = self._place(port)
            return next((row for row in self._table(controller) if row.port == port), None)
        except ModuleFault:
            return None

    def local_bus_id(self, port: int, hub: Hub) -> str:
        """The busid that a device on *port* has or will have: root hub's bus number, and port of that hub.

        Known before the device has been enumerated; empty when the hub cannot be found.
        """
        try:
            controller, hub_port = self._place(port)
        except ModuleFault:
            return ""
        bus_number = self._bus_number(controller, hub)
        return f"{bus_number}-{hub_port}" if bus_number else ""

    def is_enumerated(self, local_bus_id: str) -> bool:
        """Whether the USB core has a device with that busid. Only the name is looked at: nothing waits."""
        return bool(local_bus_id) and os.path.lexists(self._devices / local_bus_id)

    def attach(self, port: int, descriptor: int, devid: int, speed: Speed) -> None:
        """Gives the socket *descriptor* of this process to *port*. May block.

        KernelFault: EBUSY, the port is taken; EAGAIN, the controller is not ready; EINVAL, the rest. super+
        is taken as super by kernels that don't know it (6.1): the data flows alike.
        """
        try:
            self._attach(port, descriptor, devid, speed.number)
        except KernelFault as fault:
            if speed is not Speed.SUPER_PLUS or fault.errno != errno.EINVAL:
                raise
            self._attach(port, descriptor, devid, Speed.SUPER.number)

    def detach(self, port: int) -> None:
        """Ends what is attached to *port*; it is free some time after. KernelFault EINVAL: nothing is."""
        sysfs.write(self._directory / "detach", str(port))

    async def until(
        self, what: str, port: int, holds: Callable[[PortRow | None], bool], *, deadline: float,
    ) -> PortRow | None:
        """Waits until *holds* of the row of *port*, which it returns; DeadlineFault after *deadline* seconds.

        The kernel has no event for a port (sysfs cannot be polled here, and a device that was never
        enumerated makes no uevent): so this looks, at a growing interval, for a bounded time.
        """
        end = time.monotonic() + deadline
        pause = _FIRST_PAUSE
        while not holds(row := self.row(port)):
            if time.monotonic() >= end:
                raise DeadlineFault(f"port {port}: {what} has not happened for {deadline:.0f} s")
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
        return row

    def _attach(self, port: int, descriptor: int, devid: int, speed: int) -> None:
        sysfs.write(self._directory / "attach", f"{port} {descriptor} {devid} {speed}")

    def _table(self, controller: int) -> tuple[PortRow, ...]:
        name = f"status.{controller}" if controller else "status"
        return parse_status(sysfs.read_text(self._directory / name))

    def _place(self, port: int) -> tuple[int, int]:
        """The controller that *port* is on, and its number on its hub, from 1.

        All tables have the same number of rows, and both hubs of a controller the same number of ports.
        """
        first = self._table(0)
        if not first:
            raise ModuleFault("the kernel module vhci-hcd is not loaded", hint=MODULE_HINT)
        index = port % len(first)
        hub_port = sum(1 for row in first[:index + 1] if row.hub == first[index].hub)
        return port // len(first), hub_port

    def _bus_number(self, controller: int, hub: Hub) -> int:
        for root_hub in (self._platform / f"{CONTROLLER_NAME}.{controller}").glob("usb[0-9]*"):
            speed = Speed.from_sysfs(sysfs.read_text(root_hub / "speed"))
            if speed is not Speed.UNKNOWN and Hub.for_speed(speed) is hub:
                return sysfs.read_number(root_hub / "busnum")
        return 0
