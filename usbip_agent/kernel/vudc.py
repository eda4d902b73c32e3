"""usbip-vudc: USB device controllers made of nothing, whose gadgets are exported like devices.

Source: drivers/usb/usbip/vudc_sysfs.c. A vUDC is there as long as its module is; the *device* is there while
a gadget is bound to it, which the udc class announces with a change event. Nothing is bound or unbound.
"""

from __future__ import annotations

import socket
import struct
from pathlib import Path

from usbip_agent.device import Device, Kind, Speed
from usbip_agent.errors import ModuleFault, UnknownDeviceFault
from usbip_agent.kernel import sysfs
from usbip_agent.kernel.exporter import LinkStatus, hand_over_in, link_status_in

DEVICE_DESCRIPTOR = struct.Struct("<BBHBBBBHHHBBBB")
"""USB 2.0, table 9-8; the one descriptor that ``dev_desc`` holds."""

_SPEEDS = {"low-speed": Speed.LOW, "full-speed": Speed.FULL, "high-speed": Speed.HIGH,
           "super-speed": Speed.SUPER, "super-speed-plus": Speed.SUPER_PLUS}


class Vudc:
    """The vUDCs of this machine, below *root* (normally /sys)."""

    def __init__(self, root: Path = sysfs.SYSFS) -> None:
        self._platform = root / "devices/platform"

    def is_loaded(self) -> bool:
        return any(self._platform.glob("usbip-vudc.*"))

    def require_module(self) -> None:
        if not self.is_loaded():
            raise ModuleFault("the kernel module usbip-vudc is not loaded", hint="modprobe usbip-vudc")

    def require_room(self, device: Device) -> None:
        """A vUDC is one device."""

    def holds(self, device: Device) -> bool:
        return self.is_present(device)

    def is_present(self, device: Device) -> bool:
        return self.read(device.bus_id) is not None

    def link_status(self, device: Device) -> LinkStatus:
        return link_status_in(self._platform / device.bus_id)

    async def claim(self, device: Device) -> None:
        self.require_module()
        if not self.is_present(device):
            raise UnknownDeviceFault(f"no gadget is bound to {device.bus_id}")

    async def hand_over(self, device: Device, link: socket.socket) -> None:
        await hand_over_in(self._platform / device.bus_id, device.bus_id, link)

    async def give_back(self, device: Device) -> None:
        """A gadget has no local driver to return to."""

    async def resume(self, device: Device) -> None:
        """Nothing is held of a gadget."""

    async def forget(self, device: Device) -> None:
        """A vUDC keeps no table."""

    def read(self, bus_id: str) -> Device | None:
        """The gadget on the vUDC *bus_id*, None while there is none."""
        directory = self._platform / bus_id
        descriptor = sysfs.read_bytes(directory / "dev_desc")
        if len(descriptor) < DEVICE_DESCRIPTOR.size:
            return None
        (_length, _type, _usb, device_class, subclass, protocol, _packet, vendor, product, release,
         _manufacturer, _product, _serial, configurations) = DEVICE_DESCRIPTOR.unpack_from(descriptor)
        controller = directory / "udc" / bus_id
        speed = _SPEEDS.get(sysfs.read_text(controller / "current_speed"), Speed.HIGH)
        return Device(
            kind=Kind.VUDC, bus_id=bus_id, bus_number=0, device_number=0, speed=speed,
            vendor=f"{vendor:04x}", product=f"{product:04x}", release=release, device_class=device_class,
            device_subclass=subclass, device_protocol=protocol, configuration_count=configurations,
            model=sysfs.read_text(controller / "function"), sys_path=str(directory))
