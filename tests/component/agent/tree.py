"""USB devices in a directory that umockdev shows as /sys, and udev's events of them."""

from __future__ import annotations

import itertools
import os
import shutil
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.component.agent import udev

PRELOAD = "libumockdev-preload.so.0"
"""What ``umockdev-wrapper`` sets LD_PRELOAD to."""

CONTROLLER = "devices/pci0000:00/0000:00:14.0"
VHCI = "devices/platform/vhci_hcd.0"


@dataclass(frozen=True, slots=True)
class Make:
    """What a device is when it is not plugged in."""

    vendor: str
    product: str
    device_class: int = 0
    interfaces: tuple[int, ...] = ()
    """The class of each."""
    speed: str = "480"
    serial: str = ""
    manufacturer: str = ""
    model: str = ""

    def attributes(self, number: int) -> dict[str, str]:
        return {
            "idVendor": self.vendor, "idProduct": self.product, "bcdDevice": "0110", "speed": self.speed,
            "bDeviceClass": f"{self.device_class:02x}", "bDeviceSubClass": "00", "bDeviceProtocol": "00",
            "bConfigurationValue": "1", "bNumConfigurations": "1",
            "bNumInterfaces": f"{len(self.interfaces):2}", "devnum": str(number),
            **{name: text for name, text in (("serial", self.serial), ("manufacturer", self.manufacturer),
                                             ("product", self.model)) if text}}

    def descriptors(self) -> bytes:
        """The device, its configuration, and its interfaces (USB 2.0, 9.6)."""
        device = struct.pack("<BBHBBBBHHHBBBB", 18, 1, 0x200, self.device_class, 0, 0, 64,
                             int(self.vendor, 16), int(self.product, 16), 0x110, 1, 2, 3, 1)
        size = 9 + 9 * len(self.interfaces)
        configuration = struct.pack("<BBHBBBBB", 9, 2, size, len(self.interfaces), 1, 0, 0x80, 50)
        return device + configuration + b"".join(
            bytes([9, 4, number, 0, 2, code, 0, 0, 0]) for number, code in enumerate(self.interfaces))


HUB = Make("05e3", "0608", 0x09, (0x09,), model="USB2.0 Hub")
STICK = Make("0781", "5567", 0, (0x08,), serial="4C53", manufacturer="SanDisk", model="Cruzer Blade")
ADAPTER = Make("10c4", "ea60", 0, (0xFF,), "12", "01A7", "Silicon Labs", "CP2102")
KEYBOARD = Make("046d", "c31c", 0, (0x03, 0x03), "1.5", "", "Logitech", "USB Keyboard")


class Tree:
    """A root hub ``usb1``, and whatever is plugged in. ``close`` removes it all."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="umockdev."))
        self._number = 1
        self._events = itertools.count(1)
        self.bus = self.root / "sys/bus/usb"
        (self.bus / "devices").mkdir(parents=True)
        for driver in ("usb", "usbip-host"):
            (self.bus / "drivers" / driver).mkdir(parents=True)
        self._make(self.root / "sys" / CONTROLLER / "usb1", "usb_device",
                   {**HUB.attributes(1), "busnum": "1"})
        self._node(1, 1)

    def close(self) -> None:
        shutil.rmtree(self.root)

    def plug(self, bus_id: str, make: Make, *, behind: str = CONTROLLER, announced: bool = True) -> Path:
        """Makes a device, below *behind*, and has udev tell of it; its directory."""
        self._number = self._number % 127 + 1
        number, bus = self._number, int(bus_id.partition("-")[0])
        directory = self._place(bus_id, behind)
        numbers = {"busnum": str(bus), "dev": f"189:{number - 1}"}
        self._make(directory, "usb_device", {**make.attributes(number), **numbers},
                   ID_PATH=f"pci-0000:00:14.0-usb-0:{bus_id.partition('-')[2]}")
        (directory / "descriptors").write_bytes(make.descriptors())
        for index, code in enumerate(make.interfaces):
            self._make(directory / f"{bus_id}:1.{index}", "usb_interface",
                       {"bInterfaceClass": f"{code:02x}"})
        self._node(bus, number)
        self.drive(bus_id, "usb")
        if announced:
            self.tell(directory, "add")
        return directory

    def unplug(self, bus_id: str) -> None:
        """Takes a device away, then has udev tell of it."""
        directory = (self.bus / "devices" / bus_id).resolve()
        for name in [bus_id, *(entry.name for entry in directory.glob(f"{bus_id}:*"))]:
            (self.bus / "devices" / name).unlink()
        properties = self._properties(directory)
        shutil.rmtree(directory)
        self._tell("remove", properties)

    def tell(self, directory: Path, action: str) -> None:
        """An event of the device in *directory*."""
        self._tell(action, self._properties(directory.resolve()))

    def load(self, module: str) -> None:
        """The event of a module that is ready."""
        self._tell("add", {"DEVPATH": f"/module/{module}", "SUBSYSTEM": "module"})

    def _tell(self, action: str, properties: dict[str, str]) -> None:
        udev.tell(self.root, {"ACTION": action, "SEQNUM": str(next(self._events)), **properties})

    def _properties(self, directory: Path) -> dict[str, str]:
        lines = (directory / "uevent").read_text().splitlines()
        return {"DEVPATH": f"/{directory.relative_to(self.root / 'sys')}", "SUBSYSTEM": "usb",
                **dict(line.split("=", 1) for line in lines)}

    def drive(self, bus_id: str, driver: str) -> None:
        """Gives a device to *driver*; to none when it is empty."""
        link = self.bus / "devices" / bus_id / "driver"
        link.unlink(missing_ok=True)
        if driver:
            link.symlink_to(os.path.relpath(self.bus / "drivers" / driver, link.parent.resolve()))

    def driver(self, bus_id: str) -> str:
        """The name of the driver that has a device."""
        link = self.bus / "devices" / bus_id / "driver"
        return os.path.basename(os.readlink(link)) if link.is_symlink() else ""

    def disk(self, bus_id: str, name: str, number: str) -> None:
        """The disk that a stick is."""
        directory = self.bus / "devices" / bus_id / f"{bus_id}:1.0" / "host0/block" / name
        directory.mkdir(parents=True)
        (directory / "dev").write_text(f"{number}\n")
        link = self.root / "sys/class/block" / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(directory.resolve(), link.parent))
        self._touch(self.root / "nodes" / name)

    def _place(self, bus_id: str, behind: str) -> Path:
        """``1-2.3`` hangs on ``1-2``, and ``1-2`` on ``usb1``."""
        hub, dot, _port = bus_id.rpartition(".")
        if dot:
            return (self.bus / "devices" / hub).resolve() / bus_id
        return self.root / "sys" / behind / f"usb{bus_id.partition('-')[0]}" / bus_id

    def _make(self, directory: Path, kind: str, attributes: dict[str, str], **properties: str) -> None:
        directory.mkdir(parents=True)
        for name, text in attributes.items():
            (directory / name).write_text(f"{text}\n")
        (directory / "subsystem").symlink_to(os.path.relpath(self.bus, directory))
        (directory / "uevent").write_text(
            "".join(f"{name}={text}\n" for name, text in {"DEVTYPE": kind, **properties}.items()))
        link = self.bus / "devices" / directory.name
        link.symlink_to(os.path.relpath(directory, link.parent))

    def _node(self, bus: int, number: int) -> None:
        self._touch(self.root / f"nodes/bus/usb/{bus:03}/{number:03}")

    def _touch(self, node: Path) -> None:
        """Not in /dev: umockdev keeps book of what is open there, and its book has few pages."""
        node.parent.mkdir(parents=True, exist_ok=True)
        node.touch()
