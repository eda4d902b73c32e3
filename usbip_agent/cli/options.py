"""What a verb is, and the options that more than one verb has."""

from __future__ import annotations

from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from usbip_agent.device import BUS_ID
from usbip_agent.names import DEFAULT_PORT, Service
from usbip_agent.text import printable


@dataclass(frozen=True, slots=True)
class Option:
    """One option or argument: what argparse's ``add_argument`` takes."""

    flags: tuple[str, ...]
    settings: dict[str, Any]


def option(*flags: str, **settings: Any) -> Option:
    return Option(flags, settings)


@dataclass(frozen=True, slots=True)
class Verb:
    """One verb of one program."""

    summary: str
    """What it does, in a line of ``--help``."""
    run: Callable[[Service, Namespace], int]
    """Does it for the daemon of that name; returns the exit status, or raises a Fault."""
    options: tuple[Option, ...] = ()
    details: str = ""
    """What else its own ``--help`` says."""


def bus_id(text: str) -> str:
    """A busid as the kernel makes them."""
    if not BUS_ID.fullmatch(text):
        raise ArgumentTypeError(f'"{printable(text, 40)}" is no busid (1-1.4, usbip-vudc.0)')
    return text


def tcp_port(text: str) -> int:
    """A TCP port, 1 to 65535."""
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535):
        raise ArgumentTypeError(f'"{printable(text, 40)}" is no TCP port (1 to 65535)')
    return int(text)


def some_text(text: str) -> str:
    """Anything but nothing."""
    if not text.strip():
        raise ArgumentTypeError("it is empty")
    return text


JSON: Final = option("--json", action="store_true", help="print JSON")
DEBUG: Final = option("--debug", action="store_true", help="show the traceback of an internal error")
CONFIGURATION: Final = option("--config", metavar="FILE", type=Path,
                              help="read this file and the drop-ins beside it, not the installed ones")
BUS_ID_OPTION: Final = option("-b", "--busid", required=True, type=bus_id, metavar="BUSID",
                              help="the device: 1-1.4, usbip-vudc.0")
TCP_PORT: Final = option("-t", "--tcp-port", type=tcp_port, metavar="PORT",
                         help=f"TCP port (usually {DEFAULT_PORT})")
VUDC: Final = option("-d", "--device", action="store_true", help="the device is a vUDC")
