"""udev's events, and what a device says of itself.

libudev delivers an event after the rules ran, so ID_PATH is known and permissions are set.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import pyudev

from usbip_agent.device import HUB_CLASS, Device, Kind, Speed, interface_classes_of_descriptors
from usbip_agent.kernel import sysfs

log = logging.getLogger(__name__)

RECEIVE_BUFFER = 8 << 20
"""Bytes. A hub with dozens of devices makes thousands of events in a second; the default holds some 200."""


READINGS = 5
"""Times that a device is read, until it had the same number before and after."""


class Action(StrEnum):
    """The uevent actions that anybody here listens to."""

    ADD = "add"
    REMOVE = "remove"
    CHANGE = "change"
    BIND = "bind"
    UNBIND = "unbind"
    MOVE = "move"


@dataclass(frozen=True, slots=True)
class Uevent:
    """One event. On REMOVE sysfs is gone already: only the names are left."""

    action: Action
    sys_path: Path
    subsystem: str
    device_node: str
    properties: pyudev.Device

    @property
    def name(self) -> str:
        """The device's own name, which for a USB device is its busid."""
        return self.sys_path.name

    @property
    def device_number(self) -> int:
        """Which enumeration of a USB device it is about, as the kernel says in the event; 0 = not said."""
        number = self.properties.properties.get("DEVNUM", "")
        return int(number) if number.isdecimal() else 0


class UeventMonitor:
    """Calls *on_event* for each udev event that passes the filter, and *on_overrun* when some were lost.

    The filter runs in the kernel (BPF), so that what concerns nobody here costs no wakeup. Start first,
    enumerate then: nothing can fall between.
    """

    def __init__(self, on_event: Callable[[Uevent], None], on_overrun: Callable[[], None], *,
                 usb_devices: bool = False, tag: str = "") -> None:
        self._context = pyudev.Context()
        self._monitor = pyudev.Monitor.from_netlink(self._context)
        if usb_devices:
            self._monitor.filter_by("usb", "usb_device")
            self._monitor.filter_by("udc")
            self._monitor.filter_by("module")
        if tag:
            self._monitor.filter_by_tag(tag)
        self._on_event = on_event
        self._on_overrun = on_overrun

    def start(self) -> None:
        """Listens from now on; needs a running event loop."""
        try:
            self._monitor.set_receive_buffer_size(RECEIVE_BUFFER)
        except OSError:
            log.debug("the udev socket keeps its default buffer")  # no CAP_NET_ADMIN
        self._monitor.start()
        asyncio.get_running_loop().add_reader(self._monitor.fileno(), self._drain)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._monitor.fileno())

    def _drain(self) -> None:
        while True:
            try:
                device = self._monitor.poll(0)
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    self._on_overrun()
                    continue
                raise
            if device is None:
                return
            event = _uevent_of(device)
            if event is not None:
                self._on_event(event)

    def enumerate_usb_devices(self) -> Iterator[Uevent]:
        """An ADD for every USB device and every vUDC gadget controller that is there.

        None of them is asked anything here, as libudev's own enumeration does: one that hangs would keep all
        others from being found.
        """
        for subsystem, place in (("usb", "bus/usb/devices"), ("udc", "class/udc")):
            for entry in sysfs.entries(sysfs.SYSFS / place):
                if ":" in entry.name:
                    continue  # an interface
                try:
                    device = pyudev.Devices.from_sys_path(self._context, str(entry))
                except pyudev.DeviceNotFoundError:
                    continue  # it has just gone
                yield Uevent(Action.ADD, Path(device.sys_path), subsystem, "", device)

    def enumerate_tagged(self, tag: str) -> Iterator[Uevent]:
        """An ADD for every device that carries *tag*."""
        for device in self._context.list_devices().match_tag(tag):
            yield Uevent(Action.ADD, Path(device.sys_path), device.subsystem or "", device.device_node or "",
                         device)


def _uevent_of(device: pyudev.Device) -> Uevent | None:
    if device.action not in Action._value2member_map_:
        return None
    return Uevent(Action(device.action), Path(device.sys_path), device.subsystem or "",
                  device.device_node or "", device)


def device_of_event(event: Uevent) -> Device | None:
    """The device that an ADD is about; None when it has gone again, or is no device to be exported.

    None too while udev's rules have not seen it: then their ADD is yet to come.
    """
    udev = event.properties
    if event.subsystem != "usb" or udev.device_node and not udev.is_initialized:
        return None
    return read_usb_device(event.sys_path, udev.properties.get("ID_PATH", ""))


def is_hub(directory: Path) -> bool:
    """Whether the USB device in *directory* is a hub. Takes no lock, and a hub's is the one that is held."""
    return sysfs.read_number(directory / "bDeviceClass", base=16) == HUB_CLASS


def read_usb_device(directory: Path, path: str) -> Device | None:
    """What sysfs says of the USB device in *directory*, None when it is gone; *path* is udev's ID_PATH.

    A device that is being reset, as at the end of each link, has no number meanwhile: it is waited for.
    """
    for _ in range(READINGS):
        found = _read_at_once(directory, path)
        if found is not None or not directory.exists():
            return found
    return None


def _read_at_once(directory: Path, path: str) -> Device | None:
    sysfs.read_bytes(directory / "bConfigurationValue")  # takes the device's lock, as a reset does
    vendor = sysfs.read_text(directory / "idVendor")
    product = sysfs.read_text(directory / "idProduct")
    bus_number = sysfs.read_number(directory / "busnum")
    device_number = sysfs.read_number(directory / "devnum")
    if not (len(vendor) == len(product) == 4 and bus_number and device_number):
        return None
    found = Device(
        kind=Kind.USB, bus_id=directory.name, bus_number=bus_number, device_number=device_number,
        speed=Speed.from_sysfs(sysfs.read_text(directory / "speed")), vendor=vendor, product=product,
        release=sysfs.read_number(directory / "bcdDevice", base=16),
        device_class=sysfs.read_number(directory / "bDeviceClass", base=16),
        device_subclass=sysfs.read_number(directory / "bDeviceSubClass", base=16),
        device_protocol=sysfs.read_number(directory / "bDeviceProtocol", base=16),
        configuration_value=sysfs.read_number(directory / "bConfigurationValue"),
        configuration_count=sysfs.read_number(directory / "bNumConfigurations"),
        interface_count=sysfs.read_number(directory / "bNumInterfaces"),
        interface_classes=interface_classes_of_descriptors(sysfs.read_bytes(directory / "descriptors")),
        serial=sysfs.read_text(directory / "serial"),
        manufacturer=sysfs.read_text(directory / "manufacturer"),
        model=sysfs.read_text(directory / "product"),
        path=path, sys_path=str(directory))
    # Else half of it may be another one's, that came in its place meanwhile.
    return found if sysfs.read_number(directory / "devnum") == device_number else None
