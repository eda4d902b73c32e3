"""What a device is: a USB device on a bus, or a vUDC. Frozen, and made of nothing but its descriptors."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

BUS_ID = re.compile(r"[0-9]{1,5}-[0-9]{1,3}(\.[0-9]{1,3}){0,6}|usbip-vudc\.[0-9]{1,5}")
"""The busids that the kernel makes: ``1-1.4`` (drivers/usb/core/usb.c, usb_alloc_dev) and ``usbip-vudc.0``.

The USB/IP wire has 32 bytes for it with its NUL; anything else from outside is not a busid.
"""

VUDC_PREFIX = "usbip-vudc."


class Kind(StrEnum):
    """Where the device lives: on a real bus, or in a gadget on usbip-vudc."""

    USB = "usb"
    VUDC = "vudc"


class Speed(StrEnum):
    """Speeds as policy and status name them."""

    UNKNOWN = "unknown"
    LOW = "low"
    FULL = "full"
    HIGH = "high"
    SUPER = "super"
    SUPER_PLUS = "super+"

    @property
    def number(self) -> int:
        """The kernel's ``enum usb_device_speed`` (include/uapi/linux/usb/ch9.h), as it stands on the wire."""
        return _SPEED_NUMBERS[self]

    @classmethod
    def from_number(cls, number: int) -> Speed:
        """The speed for a wire number; UNKNOWN for one that USB/IP does not carry."""
        return next((speed for speed, known in _SPEED_NUMBERS.items() if known == number), cls.UNKNOWN)

    @classmethod
    def from_sysfs(cls, text: str) -> Speed:
        """The speed for sysfs's ``speed`` attribute in Mbit/s (drivers/usb/core/sysfs.c)."""
        return _SPEED_MEGABITS.get(text.strip(), cls.UNKNOWN)


_SPEED_NUMBERS = {
    Speed.UNKNOWN: 0, Speed.LOW: 1, Speed.FULL: 2, Speed.HIGH: 3, Speed.SUPER: 5, Speed.SUPER_PLUS: 6,
}
_SPEED_MEGABITS = {
    "1.5": Speed.LOW, "12": Speed.FULL, "480": Speed.HIGH, "5000": Speed.SUPER,
    "10000": Speed.SUPER_PLUS, "20000": Speed.SUPER_PLUS,
}

CLASS_NAMES = {
    0x01: "audio", 0x02: "communications", 0x03: "hid", 0x05: "physical", 0x06: "image", 0x07: "printer",
    0x08: "storage", 0x09: "hub", 0x0A: "data", 0x0B: "smartcard", 0x0D: "security", 0x0E: "video",
    0x0F: "healthcare", 0x10: "audiovideo", 0x11: "billboard", 0x12: "typec", 0xDC: "diagnostic",
    0xE0: "wireless", 0xEF: "miscellaneous", 0xFE: "application", 0xFF: "vendor",
}
"""The USB class codes of usb.org by the names that policy takes."""

HUB_CLASS = 0x09


def class_name(code: int) -> str:
    """The name of a class code, or its two hex digits where it has none."""
    return CLASS_NAMES.get(code, f"{code:02x}")


@dataclass(frozen=True, slots=True)
class Enumeration:
    """One stay of a device in its port: who comes next has the same busid, but another number."""

    bus_id: str
    bus_number: int
    device_number: int


@dataclass(frozen=True, slots=True)
class Device:
    """One device at one moment. A replug makes another one, with another ``device_number``."""

    kind: Kind
    bus_id: str
    bus_number: int
    device_number: int
    speed: Speed
    vendor: str
    """Four lower-case hex digits, as sysfs has them; likewise ``product``."""
    product: str
    release: int = 0
    device_class: int = 0
    device_subclass: int = 0
    device_protocol: int = 0
    configuration_value: int = 0
    configuration_count: int = 0
    interface_count: int = 0
    interface_classes: frozenset[int] = frozenset()
    serial: str = ""
    manufacturer: str = ""
    model: str = ""
    path: str = ""
    """udev's ID_PATH: the physical port; empty for a vUDC."""
    sys_path: str = ""

    @property
    def class_codes(self) -> frozenset[int]:
        """The device's own class and those of all its interfaces; 0 ("see interfaces") says nothing."""
        return (self.interface_classes | {self.device_class}) - {0}

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(class_name(code) for code in sorted(self.class_codes))

    @property
    def is_hub(self) -> bool:
        return self.device_class == HUB_CLASS

    @property
    def is_imported(self) -> bool:
        """True for a device that reached this machine through vhci-hcd itself."""
        return "/vhci_hcd" in self.sys_path

    @property
    def description(self) -> str:
        """``10c4:ea60 CP2102 USB to UART``: ids and what the device calls itself (unescaped)."""
        words = " ".join(word for word in (self.manufacturer, self.model) if word)
        return f"{self.vendor}:{self.product}" + (f" {words}" if words else "")

    @property
    def enumeration(self) -> Enumeration:
        return Enumeration(self.bus_id, self.bus_number, self.device_number)

    def same_device_as(self, other: Device) -> bool:
        """True when *other* is this very enumeration and not what was plugged in later at the same port.

        A vUDC has no numbers, and its gadget may be exchanged between two looks: there the ids tell.
        """
        is_same_gadget = (self.vendor, self.product, self.release) == (
            other.vendor, other.product, other.release)
        return self.enumeration == other.enumeration and (self.kind is not Kind.VUDC or is_same_gadget)


def interface_classes_of_descriptors(descriptors: bytes) -> frozenset[int]:
    """bInterfaceClass of every interface in sysfs's ``descriptors`` (USB 2.0, section 9.6.5).

    The attribute holds the device descriptor and all configurations. A device may lie about lengths: what
    does not parse ends the walk, and what was found until then is returned.
    """
    return frozenset(_walk_interface_classes(descriptors))


def _walk_interface_classes(descriptors: bytes) -> Iterable[int]:
    offset = 0
    while offset + 2 <= len(descriptors):
        length, descriptor_type = descriptors[offset], descriptors[offset + 1]
        if length < 2:
            return
        if descriptor_type == 0x04 and length >= 9 and offset + 9 <= len(descriptors):
            yield descriptors[offset + 5]
        offset += length
