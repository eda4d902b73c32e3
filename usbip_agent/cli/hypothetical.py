"""A device that is not there, as the options of ``explain`` describe it."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError, Namespace
from typing import Final

from usbip_agent.cli.options import Option, bus_id, option
from usbip_agent.device import CLASS_NAMES, VUDC_PREFIX, Device, Kind, Speed
from usbip_agent.errors import UsageFault
from usbip_agent.text import printable


def four_hex_digits(text: str) -> str:
    """A vendor or product id."""
    if not re.fullmatch(r"[0-9a-fA-F]{4}", text):
        raise ArgumentTypeError(f'"{printable(text, 40)}" is not four hex digits')
    return text.lower()


def class_code(text: str) -> int:
    """A USB class by its name or its two hex digits."""
    for code, name in CLASS_NAMES.items():
        if text.lower() in (name, f"{code:02x}"):
            return code
    if not re.fullmatch(r"[0-9a-fA-F]{2}", text):
        raise ArgumentTypeError(f'"{printable(text, 40)}" is no class ({", ".join(CLASS_NAMES.values())})')
    return int(text, 16)


OPTIONS: Final[tuple[Option, ...]] = (
    option("--vendor", type=four_hex_digits, metavar="ID", help="four hex digits"),
    option("--product", type=four_hex_digits, metavar="ID", help="four hex digits"),
    option("--class", dest="classes", action="append", type=class_code, metavar="CLASS",
           help="name or two hex digits; may be repeated"),
    option("--serial", default="", metavar="TEXT"),
    option("--manufacturer", default="", metavar="TEXT"),
    option("--model", default="", metavar="TEXT"),
    option("--busid", type=bus_id, metavar="BUSID"),
    option("--path", default="", metavar="TEXT", help="udev's ID_PATH: the physical port"),
    option("--speed", choices=[str(speed) for speed in Speed if speed is not Speed.UNKNOWN]),
)


def is_described(arguments: Namespace) -> bool:
    """Whether any option describes a device."""
    return any(getattr(arguments, name) for name in (
        "vendor", "product", "classes", "serial", "manufacturer", "model", "busid", "path", "speed"))


def device_described(arguments: Namespace) -> Device:
    """The device of the options; UsageFault without its ids."""
    if not (arguments.vendor and arguments.product):
        raise UsageFault("--vendor and --product are needed", hint="--vendor 10c4 --product ea60")
    codes: list[int] = arguments.classes or []
    name: str = arguments.busid or ""
    return Device(
        kind=Kind.VUDC if name.startswith(VUDC_PREFIX) else Kind.USB,
        bus_id=name, bus_number=0, device_number=0, speed=Speed(arguments.speed or Speed.UNKNOWN),
        vendor=arguments.vendor, product=arguments.product, device_class=codes[0] if len(codes) == 1 else 0,
        interface_classes=frozenset(codes), serial=arguments.serial, manufacturer=arguments.manufacturer,
        model=arguments.model, path=arguments.path)
