"""Which TCP sockets of this machine listen, and whose they are, as /proc says."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Final

_LISTEN: Final = "0A"
"""TCP_LISTEN (include/net/tcp_states.h)."""


@dataclass(frozen=True, slots=True)
class ListeningSocket:
    """One listening TCP socket."""

    address: IPv4Address | IPv6Address
    port: int
    inode: str


def listening_sockets(proc: Path = Path("/proc")) -> tuple[ListeningSocket, ...]:
    """All of them, IPv4 and IPv6."""
    return tuple(found for name in ("tcp", "tcp6") for found in _parse(_read(proc / "net" / name)))


def _read(table: Path) -> str:
    try:
        return table.read_text("ascii", "replace")
    except OSError:
        return ""  # no IPv6


def _parse(table: str) -> Iterator[ListeningSocket]:
    """``sl local_address rem_address st … inode``; addresses are 32-bit words in the machine's order."""
    for line in table.splitlines()[1:]:
        words = line.split()
        if len(words) > 9 and words[3] == _LISTEN:
            address, _, port = words[1].partition(":")
            numbers = [int(address[start:start + 8], 16) for start in range(0, len(address), 8)]
            packed = struct.pack(f"={len(numbers)}I", *numbers)
            family = socket.AF_INET if len(numbers) == 1 else socket.AF_INET6
            yield ListeningSocket(ip_address(socket.inet_ntop(family, packed)), int(port, 16), words[9])


def owner_of(inode: str, proc: Path = Path("/proc")) -> str:
    """The name of a process that has the socket; empty when this user may not know."""
    for process in proc.glob("[0-9]*"):
        try:
            if any(os.readlink(entry) == f"socket:[{inode}]" for entry in (process / "fd").iterdir()):
                return (process / "comm").read_text("utf-8", "replace").strip()
        except OSError:
            continue  # another user's, or it has ended
    return ""
