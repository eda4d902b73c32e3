"""usbip-host, the stub: takes a USB device from its local driver, exports it, and gives it back.

Sources: drivers/usb/usbip/stub_main.c, stub_dev.c. The table ``match_busid`` has 16 entries, and only
``rebind`` ever clears one: ``del`` leaves an entry that was bound, or never was. But ``rebind`` follows the
entry's pointer to its device, which dangles once the device was unplugged. So from the bind on the device and
its hub are held (see ``holds``): that makes ``rebind`` safe also for a device that is gone. An entry that saw
no bind has no such pointer, and stays until a device is plugged in there: it is made right before the bind.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from usbip_agent.device import Device, Enumeration
from usbip_agent.errors import (
    BusyFault, Fault, KernelFault, ModuleFault, NotExportableFault, UnknownDeviceFault,
)
from usbip_agent.kernel import sysfs
from usbip_agent.blocking import KERNEL_DEADLINE, Turn, in_thread, in_turn
from usbip_agent.kernel.exporter import LinkStatus, hand_over_in, link_status_in
from usbip_agent.kernel.holds import Holds

DRIVER = "usbip-host"
ENTRIES = 16
"""MAX_BUSID of drivers/usb/usbip/stub.h."""

START_PATIENCE = 5.0
"""Seconds that a start waits for what hangs."""

FULL = f"usbip-host holds {ENTRIES} devices, and that is all it can hold"

log = logging.getLogger(__name__)


class Stub:
    """usbip-host, below the USB bus in *root* (normally /sys); *holds* may come from an earlier run."""

    def __init__(self, holds: Holds | None = None, root: Path = sysfs.SYSFS) -> None:
        self._bus = root / "bus/usb"
        self._driver = self._bus / "drivers" / DRIVER
        self._holds = holds or Holds()

    def is_loaded(self) -> bool:
        return self._driver.is_dir()

    def require_module(self) -> None:
        if not self.is_loaded():
            raise ModuleFault("the kernel module usbip-host is not loaded", hint="modprobe usbip-host")

    def require_room(self, device: Device) -> None:
        entries = self.claimed_bus_ids()
        if len(entries) >= ENTRIES and device.bus_id not in entries:
            raise BusyFault(FULL)

    def claimed_bus_ids(self) -> tuple[str, ...]:
        """What stands in ``match_busid``, ours or not."""
        return tuple(sysfs.read_text(self._driver / "match_busid").split())

    def holds(self, device: Device) -> bool:
        return self._is_bound(device.bus_id)

    def is_present(self, device: Device) -> bool:
        return self._number_in(device.bus_id) == (device.bus_number, device.device_number)

    def link_status(self, device: Device) -> LinkStatus:
        return link_status_in(self._directory(device))

    async def claim(self, device: Device) -> None:
        if device.is_hub or device.is_imported:
            what = "a hub" if device.is_hub else "itself imported from another machine"
            raise NotExportableFault(f"{device.bus_id} is {what}")
        self.require_module()
        if self.holds(device):
            return  # a re-export needs no rebind
        await in_turn("bind", device.bus_id, lambda turn: self._claim(device, turn))

    async def _claim(self, device: Device, turn: Turn) -> None:
        await in_thread(f"open {device.bus_id}", lambda: self._open(device), deadline=None)
        self._holds.keep(device)  # before the bind: it cannot be made good later
        try:
            await in_thread(f"bind {device.bus_id}", lambda: self._bind(device, turn), deadline=None)
        except Fault:
            self._holds.let_go(device.enumeration)
            raise
        self._let_go(set(self._holds.in_place_of(device.bus_id)) - {device.enumeration})
        await self._refuse_successor(device)
        if turn.given_up:
            await self._return(device)

    async def _refuse_successor(self, device: Device) -> None:
        """When another one took the place in the midst of the claim: nobody has said that it may be taken."""
        bus_number, number = self._number_in(device.bus_id)
        if number not in (0, device.device_number):
            await self._return(replace(device, bus_number=bus_number, device_number=number))
            raise UnknownDeviceFault(f"{device.bus_id} was unplugged")

    async def hand_over(self, device: Device, link: socket.socket) -> None:
        await hand_over_in(self._directory(device), device.bus_id, link)

    async def give_back(self, device: Device) -> None:
        await in_turn("unbind", device.bus_id, lambda turn: self._return(device))

    async def _return(self, device: Device) -> None:
        if await in_thread(f"unbind {device.bus_id}", lambda: self._give_back(device), deadline=None):
            self._let_go(self._holds.in_place_of(device.bus_id))

    async def resume(self, device: Device) -> None:
        await in_turn("open", device.bus_id, lambda turn: self._resume(device))

    async def _resume(self, device: Device) -> None:
        await in_thread(f"open {device.bus_id}", lambda: self._hold(device), deadline=None)
        self._holds.keep(device)

    async def forget(self, device: Device) -> None:
        await self._forget_place(device.bus_id, self._holds.in_place_of(device.bus_id))

    async def forget_the_gone(self) -> None:
        """Clears what is left of devices that went while nobody looked. Before anything else is done.

        Where the kernel takes long this goes on, and nothing is begun in that place until it has ended.
        """
        gone: dict[str, set[Enumeration]] = {}
        for held in self._holds.all():
            number = self._number_in(held.bus_id)
            is_being_reset = number[0] and not number[1]
            if number != (held.bus_number, held.device_number) and not is_being_reset:
                gone.setdefault(held.bus_id, set()).add(held)
        await asyncio.gather(*(self._forget_soon(bus_id, held) for bus_id, held in gone.items()))

    async def _forget_soon(self, bus_id: str, held: Collection[Enumeration]) -> None:
        try:
            await self._forget_place(bus_id, held, START_PATIENCE)
        except Fault as fault:
            log.warning("%s", fault)

    def _is_bound(self, bus_id: str) -> bool:
        return sysfs.driver_of(self._bus / "devices" / bus_id) == DRIVER

    def _number_in(self, bus_id: str) -> tuple[int, int]:
        """Number of the bus, and on it; (0, 0) when nothing is there."""
        directory = self._bus / "devices" / bus_id
        return sysfs.read_number(directory / "busnum"), sysfs.read_number(directory / "devnum")

    def _directory(self, device: Device) -> Path:
        return self._bus / "devices" / device.bus_id

    def _open(self, device: Device) -> None:
        if not self.is_present(device):
            raise UnknownDeviceFault(f"{device.bus_id} was unplugged")
        self.require_room(device)
        self._hold(device)

    def _bind(self, device: Device, turn: Turn) -> None:
        turn.check()
        try:
            self._unbind_local_driver(device)  # which may take a second: its caches are written out
            turn.check()
            if not self.is_present(device) or self._holds.is_gone(device, self._directory(device)):
                raise UnknownDeviceFault(f"{device.bus_id} was unplugged")
            sysfs.write(self._driver / "match_busid", f"add {device.bus_id}")
            sysfs.write(self._driver / "bind", device.bus_id)
        except Fault as fault:
            self._probe_local_driver(device)
            if not isinstance(fault, KernelFault):
                raise
            if fault.errno == errno.ENOMEM:
                raise BusyFault(FULL) from None
            if fault.errno in (errno.ENODEV, errno.ENOENT) and not self.is_present(device):
                raise UnknownDeviceFault(f"{device.bus_id} was unplugged") from None
            raise

    def _unbind_local_driver(self, device: Device) -> None:
        driver = sysfs.driver_of(self._directory(device))
        if not driver:
            return
        try:
            sysfs.write(self._bus / "drivers" / driver / "unbind", device.bus_id)
        except KernelFault as fault:
            if fault.errno != errno.ENODEV:  # it let go by itself
                raise

    def _probe_local_driver(self, device: Device) -> None:
        try:
            sysfs.write(self._bus / "drivers_probe", device.bus_id)
        except KernelFault:
            pass  # unplugged, or no local driver wants it: there is nothing to give it back to

    def _give_back(self, device: Device) -> bool:
        """Whether it was there to be given back."""
        if not self.holds(device) or not self.is_present(device):
            return False
        if self.link_status(device) is LinkStatus.USED:
            raise BusyFault(f"{device.bus_id} still has a link; unbinding it now would crash the kernel")
        self._hold(device)
        sysfs.write(self._driver / "unbind", device.bus_id)
        self._rebind(device.bus_id)
        if not sysfs.driver_of(self._directory(device)):
            self._probe_local_driver(device)
        return True

    async def _forget_place(self, bus_id: str, held: Collection[Enumeration],
                            deadline: float = KERNEL_DEADLINE) -> None:
        """The devices that were held are gone; the entry of their place is not."""
        if held:  # and what hangs goes on soon, as they are gone
            await in_turn("forget", bus_id, lambda turn: self._forget_held(bus_id, held),
                          deadline=deadline, patient=True)

    async def _forget_held(self, bus_id: str, held: Collection[Enumeration]) -> None:
        await in_thread(f"forget {bus_id}", lambda: self._clear_entry(bus_id), deadline=None)
        self._let_go(held)

    def _clear_entry(self, bus_id: str) -> None:
        if bus_id in self.claimed_bus_ids() and not self._is_bound(bus_id):
            self._rebind(bus_id)

    def _rebind(self, bus_id: str) -> None:
        """Clears the entry in ``match_busid``, and has a local driver probe the device if it is there."""
        try:
            sysfs.write(self._driver / "rebind", bus_id)
        except KernelFault as fault:
            log.debug("%s", fault)  # it had no entry

    def _hold(self, device: Device) -> None:
        self._holds.hold(device, self._directory(device))

    def _let_go(self, held: Collection[Enumeration]) -> None:
        for each in held:
            self._holds.let_go(each)
