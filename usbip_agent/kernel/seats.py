"""Who sits at this machine, by which keyboards and terminals.

The session files of systemd-logind (/run/systemd/sessions) are what libsystemd's sd-login(3) reads as well.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from usbip_agent.kernel import sysfs
from usbip_agent.kernel.block_devices import Places

_LETTERS = {*range(16, 26), *range(30, 39), *range(44, 51)}
"""KEY_Q to KEY_P, KEY_A to KEY_L, KEY_Z to KEY_M (include/uapi/linux/input-event-codes.h)."""

_WORD_DIGITS = 2 * struct.calcsize("l")
"""Hex digits of one word of a bitmap: the kernel prints them for the word size of whoever reads."""

_FIRST_SEAT = "seat0"
_SEAT = re.compile(r"^E:ID_SEAT=(seat[A-Za-z0-9_-]{1,64})$", re.MULTILINE)
_NOT_LOCAL = ("/virtual/", "/vhci_hcd.")


@dataclass(frozen=True, slots=True)
class Session:
    """Somebody who is logged in."""

    user: str
    seat: str
    terminal: str
    """``tty2``, ``ttyUSB0``; empty for a graphical one or ssh."""


@dataclass(frozen=True, slots=True)
class Seat:
    """A seat and who is logged in there."""

    name: str
    users: tuple[str, ...]


def sessions(places: Places) -> tuple[Session, ...]:
    """Everybody who is logged in; display managers' greeters and closing sessions are not."""
    found = []
    for file in sysfs.entries(places.run / "systemd/sessions"):
        if file.name.endswith(".ref"):
            continue  # the FIFO that a session's leader holds
        facts = dict(line.split("=", 1) for line in _read(file).splitlines() if "=" in line)
        if facts.get("CLASS", "").startswith("user") and facts.get("STATE") in ("active", "online"):
            found.append(Session(facts.get("USER", "?"), facts.get("SEAT", ""), facts.get("TTY", "")))
    return tuple(found)


def seats_without(directory: Path, places: Places) -> tuple[Seat, ...]:
    """The seats in use whose only keyboard is the USB device in *directory*."""
    if not sysfs.class_members(places.sys / "class/input", directory):
        return ()
    top = directory.resolve()
    own: set[str] = set()
    others: set[str] = set()
    for path in keyboards(places):
        (own if path.is_relative_to(top) else others).add(_seat_of(path, places))
    if not own - others:
        return ()
    users: dict[str, set[str]] = {}
    for session in sessions(places):
        users.setdefault(session.seat, set()).add(session.user)
    return tuple(Seat(name, tuple(sorted(users[name]))) for name in sorted(own - others) if name in users)


def keyboards(places: Places) -> Iterator[Path]:
    """The directories of the input devices that somebody can write with, in this place."""
    for entry in sysfs.entries(places.sys / "class/input"):
        path = entry.resolve()
        if entry.name.startswith("input") and not any(part in str(path) for part in _NOT_LOCAL):
            if _LETTERS <= bits(sysfs.read_text(entry / "capabilities/key")):
                yield path


def terminals_below(directory: Path, places: Places) -> frozenset[str]:
    """``ttyUSB0``, … of the USB device in *directory*."""
    return frozenset(entry.name for entry in sysfs.class_members(places.sys / "class/tty", directory))


def console_terminals(places: Places) -> frozenset[str]:
    """The terminals that the kernel's messages go to."""
    return frozenset(sysfs.read_text(places.sys / "class/tty/console/active").split())


def bits(bitmap: str, digits: int = _WORD_DIGITS) -> set[int]:
    """The bits that are set in one of sysfs's *bitmap* texts: words of *digits*, the highest first."""
    try:
        words = [int(word, 16) for word in bitmap.split()]
    except ValueError:
        return set()
    return {4 * digits * index + bit for index, word in enumerate(reversed(words))
            for bit in range(4 * digits) if word >> bit & 1}


def _seat_of(path: Path, places: Places) -> str:
    found = _SEAT.search(_read(places.run / "udev/data" / f"+input:{path.name}"))
    return found[1] if found else _FIRST_SEAT


def _read(file: Path) -> str:
    return sysfs.read_bytes(file).decode("utf-8", "replace")
