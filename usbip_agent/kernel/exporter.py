"""What the stub and a vUDC have in common: a device that can be given a socket, and says how that goes."""

from __future__ import annotations

import asyncio
import errno
import socket
from contextlib import suppress
from enum import IntEnum
from pathlib import Path
from typing import Protocol

from usbip_agent.device import Device
from usbip_agent.errors import DeadlineFault, KernelFault, NotExportableFault, UnknownDeviceFault
from usbip_agent.kernel import sysfs
from usbip_agent.blocking import in_thread, in_turn

UNLINK_DEADLINE = 30.0
"""Seconds for the stub to let go of a dead link: it stops its threads, frees URBs and resets the device."""

_UNLINK_STEP = 0.05


class LinkStatus(IntEnum):
    """``usbip_status`` (drivers/usb/usbip/usbip_common.h, enum usbip_device_status)."""

    ABSENT = 0
    """No such attribute: the driver does not hold the device."""
    AVAILABLE = 1
    USED = 2
    ERROR = 3


class Exporter(Protocol):
    """How a device of one kind is taken, linked and given back."""

    def require_module(self) -> None:
        """ModuleFault, with the cure, when the kernel module is not loaded."""

    def require_room(self, device: Device) -> None:
        """BusyFault when the driver can hold no further device."""

    def holds(self, device: Device) -> bool:
        """Whether the driver has the device, so that ``link_status`` means something."""

    def is_present(self, device: Device) -> bool:
        """Whether this very enumeration of the device is still there."""

    def link_status(self, device: Device) -> LinkStatus:
        """What the driver says of its link."""

    async def claim(self, device: Device) -> None:
        """Takes the device from its local driver. KernelFault, ModuleFault, UnknownDeviceFault, BusyFault."""

    async def hand_over(self, device: Device, link: socket.socket) -> None:
        """Gives the driver the socket; from then on the kernel owns the link. KernelFault."""

    async def give_back(self, device: Device) -> None:
        """Returns the device to its local driver. BusyFault while a link is up: the kernel would crash."""

    async def resume(self, device: Device) -> None:
        """Goes on with a device that an earlier run has claimed."""

    async def forget(self, device: Device) -> None:
        """Clears what the driver still says of a device that is gone. Before any claim in its place."""


def link_status_in(directory: Path) -> LinkStatus:
    """The link status of the device in *directory*."""
    number = sysfs.read_number(directory / "usbip_status")
    return LinkStatus(number) if number in LinkStatus._value2member_map_ else LinkStatus.ABSENT


async def hand_over_in(directory: Path, bus_id: str, link: socket.socket) -> None:
    """Writes the number of *link* to ``usbip_sockfd``. Whatever is wrong, the kernel says EINVAL.

    DeadlineFault: the link is ended then, as the kernel may take it yet.
    """
    attribute = directory / "usbip_sockfd"
    try:
        await in_turn("hand over", bus_id, lambda turn: in_thread(
            f"hand over {bus_id}", lambda: _write_number(attribute, link), deadline=None))
    except DeadlineFault:
        with suppress(OSError):  # its peer was first
            link.shutdown(socket.SHUT_RDWR)
        raise
    except KernelFault as fault:
        if fault.errno in (errno.ENOENT, errno.ENODEV):
            raise UnknownDeviceFault(f"{bus_id} was unplugged") from None
        status = link_status_in(directory)
        if status is LinkStatus.ERROR:
            raise NotExportableFault(f"{bus_id} no longer answers on the bus", hint="replug it") from None
        raise


def _write_number(attribute: Path, link: socket.socket) -> None:
    """A number of its own: *link* may be closed, and its number another's, before the kernel looks."""
    try:
        ours = link.dup()
    except OSError as error:
        raise KernelFault(f"{attribute}: {error.strerror}", errno=error.errno or errno.EIO) from None
    with ours:
        sysfs.write(attribute, str(ours.fileno()))


async def wait_until_unlinked(exporter: Exporter, device: Device, deadline: float = UNLINK_DEADLINE) -> None:
    """Returns when the driver has let go of a link that was shut down. DeadlineFault after *deadline*.

    The driver announces this by no uevent and no sysfs notification: this is one of the two places that
    look again and again, for the 0.15 to 0.3 s that it takes.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + deadline
    while exporter.link_status(device) is LinkStatus.USED:
        if loop.time() > end:
            raise DeadlineFault(
                f"{device.bus_id}: the kernel still holds the dead link after {deadline:.0f} s",
                hint="replug the device; never unbind it now, the kernel would crash")
        await asyncio.sleep(_UNLINK_STEP)
