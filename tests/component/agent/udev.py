"""udev's events, told to whoever listens inside a umockdev directory: there its netlink is datagram sockets.

umockdev's own way of telling loses its process when the listener is busy for a moment; this one waits for it.
The datagram is that of systemd's sd-device (src/libsystemd/sd-device/device-monitor.c).
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from pathlib import Path

_HEADER = struct.Struct("=8s4sIII4s4sII")
"""Prefix, magic, header size, offset and length of the properties, hashes for the kernel's filter, tags."""

_MAGIC = struct.pack(">I", 0xFEEDCAFE)

PATIENCE = 40.0
"""Seconds for the listener to take an event."""


def tell(directory: Path, properties: Mapping[str, str]) -> None:
    """One event, with all that udev says of a device, to all listeners in *directory*."""
    text = b"".join(f"{name}={value}\0".encode() for name, value in properties.items())
    header = _HEADER.pack(
        b"libudev\0", _MAGIC, _HEADER.size, _HEADER.size, len(text),
        _hash(properties["SUBSYSTEM"]), _hash(properties.get("DEVTYPE", "")), 0, 0)
    for listener in sorted(directory.glob("event*")):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(PATIENCE)
            try:
                sender.connect(str(listener))
                sender.send(header + text)
            except (ConnectionError, FileNotFoundError):
                pass  # it has ended


def _hash(text: str) -> bytes:
    """MurmurHash2 with seed 0, big endian; of nothing it is zero."""
    data, multiplier, mask = text.encode(), 0x5BD1E995, 0xFFFFFFFF
    if not data:
        return bytes(4)
    result = len(data)
    whole = len(data) & ~3
    for (word,) in struct.iter_unpack("=I", data[:whole]):
        word = word * multiplier & mask
        word = (word ^ word >> 24) * multiplier & mask
        result = result * multiplier & mask ^ word
    if data[whole:]:
        result = (result ^ int.from_bytes(data[whole:], "little")) * multiplier & mask
    result = (result ^ result >> 13) * multiplier & mask
    return struct.pack(">I", result ^ result >> 15)
