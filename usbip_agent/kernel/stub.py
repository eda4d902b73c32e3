"""usbip-host, the stub: takes a USB device from its local driver, exports it, and gives it back.

Sources: drivers/usb/usbip/stub_main.c, stub_dev.c. The table ``match_busid`` has 16 entries, and only
``rebind`` ever clears one: ``del`` leaves an entry that was bound. But ``rebind`` follows the entry's
pointer to its device, which dangles once the device was unplugged. So from the bind on we hold the device
and its hub open in usbfs: that keeps both structures alive, and makes ``rebind`` safe also for a device
that is gone.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from pathlib import Path

from usbip_agent.device import Device
from usbip_agent.errors import BusyFault, KernelFault, ModuleFault, NotExportableFault, UnknownDeviceFault
from usbip_agent.kernel import sysfs
from usbip_agent.blocking import in_thread
from usbip_agent.kernel.exporter import LinkStatus, hand_over_in, link_status_in

DRIVER = "usbip-host"
DEVICE_NODES = Path("/dev/bus/usb")

log = logging.getLogger(__name__)


class Stub:
    """usbip-host, below the USB bus in *root* (normally /sys)."""

    def __init__(self, root: Path = sysfs.SYSFS) -> None:
        self._bus = root / "bus/usb"
        self._driver = self._bus / "drivers" / DRIVER
        self._held: dict[str, list[int]] = {}

    def is_loaded(self) -> bool:
        return self._driver.is_dir()

    def require_module(self) -> None:
        if not self.is_loaded():
            raise ModuleFault("the kernel module usbip-host is not loaded", hint="modprobe usbip-host")

    def claimed_bus_ids(self) -> tuple[str, ...]:
        """What stands in ``match_busid``, ours or not."""
        return tuple(sysfs.read_text(self._driver / "match_busid").split())

    def holds(self, device: Device) -> bool:
        return sysfs.driver_of(self._directory(device)) == DRIVER

    def is_present(self, device: Device) -> bool:
        directory = self._directory(device)
        return (sysfs.read_number(directory / "busnum"), sysfs.read_number(directory / "devnum")) == (
            device.bus_number, device.device_number)

    def link_status(self, device: Device) -> LinkStatus:
        return link_status_in(self._directory(device))

    async def claim(self, device: Device) -> None:
        if device.is_hub or device.is_imported:
            what = "a hub" if device.is_hub else "itself imported from another machine"
            raise NotExportableFault(f"{device.bus_id} is {what}")
        self.require_module()
        await in_thread(f"bind {device.bus_id}", lambda: self._claim(device))

    async def hand_over(self, device: Device, link: socket.socket) -> None:
        await hand_over_in(self._directory(device), device.bus_id, link)

    async def give_back(self, device: Device) -> None:
        await in_thread(f"unbind {device.bus_id}", lambda: self._give_back(device))

    async def resume(self, device: Device) -> None:
        await in_thread(f"open {device.bus_id}", lambda: self._hold(device))

    async def forget(self, device: Device) -> None:
        await in_thread(f"forget {device.bus_id}", lambda: self._forget(device))

    def _directory(self, device: Device) -> Path:
        return self._bus / "devices" / device.bus_id

    def _claim(self, device: Device) -> None:
        if self.holds(device):
            return  # a re-export needs no rebind
        if not self.is_present(device):
            raise UnknownDeviceFault(f"{device.bus_id} was unplugged")
        try:
            sysfs.write(self._driver / "match_busid", f"add {device.bus_id}")
        except KernelFault as fault:
            if fault.errno == errno.ENOMEM:
                raise BusyFault("usbip-host holds 16 devices, and that is all it can hold") from None
            raise
        self._hold(device)
        try:
            self._unbind_local_driver(device)
            sysfs.write(self._driver / "bind", device.bus_id)
        except KernelFault as fault:
            self._let_go(device)
            self._probe_local_driver(device)
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

    def _give_back(self, device: Device) -> None:
        if not self.holds(device) or not self.is_present(device):
            return
        if self.link_status(device) is LinkStatus.USED:
            raise BusyFault(f"{device.bus_id} still has a link; unbinding it now would crash the kernel")
        self._hold(device)
        sysfs.write(self._driver / "unbind", device.bus_id)
        self._rebind(device)
        if not sysfs.driver_of(self._directory(device)):
            self._probe_local_driver(device)
        self._let_go(device)

    def _forget(self, device: Device) -> None:
        """The device is gone; its entry is not."""
        bus_id = device.bus_id
        if bus_id in self._held and bus_id in self.claimed_bus_ids() and not self.holds(device):
            self._rebind(device)
        self._let_go(device)

    def _rebind(self, device: Device) -> None:
        """Clears the entry in ``match_busid``, and has a local driver probe the device if it is there."""
        try:
            sysfs.write(self._driver / "rebind", device.bus_id)
        except KernelFault as fault:
            log.debug("%s", fault)  # it had no entry

    def _hold(self, device: Device) -> None:
        """Keeps the kernel's structures of the device and of its hub alive."""
        if device.bus_id in self._held:
            return
        directory = self._directory(device).resolve()
        opened = (_open(directory), _open(directory.parent))
        self._held[device.bus_id] = [descriptor for descriptor in opened if descriptor is not None]
        if len(self._held[device.bus_id]) != 2:
            self._let_go(device)

    def _let_go(self, device: Device) -> None:
        for descriptor in self._held.pop(device.bus_id, ()):
            os.close(descriptor)


def _open(directory: Path) -> int | None:
    """The usbfs node of the device in *directory*, opened for nothing but to be held."""
    bus, device = sysfs.read_number(directory / "busnum"), sysfs.read_number(directory / "devnum")
    node = DEVICE_NODES / f"{bus:03}" / f"{device:03}"
    try:
        return os.open(node, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        log.debug("%s: %s", node, error.strerror)
        return None
