"""The PDUs of EXPORT and UNEXPORT: bytes to values and back. No I/O.

The layout is that of tools/usb/usbip/src/usbip_network.h; the two operations are those of Nobuo Iwata's
series "usbip: exporting devices". All numbers are big endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from usbip_agent.device import BUS_ID, Device, Kind, Speed, VUDC_PREFIX
from usbip_agent.errors import ProtocolFault

VERSION = 0x0111
HEADER = struct.Struct(">HHI")
DEVICE = struct.Struct(">256s32sIIIHHHBBBBBB")
RETURN_CODE = struct.Struct(">I")
REQUEST_SIZE = HEADER.size + DEVICE.size
"""320 bytes: a header and one ``struct usbip_usb_device``; no interface array follows."""

RETURN_CODE_FAILED = 0xFFFFFFFF
FIRST_URB = bytes((0, 0, 0, 1))
"""USBIP_CMD_SUBMIT: what follows an OK without a return code, since vhci speaks first on a new link."""


class Operation(IntEnum):
    """The code of a request; a reply has the same without REQUEST."""

    EXPORT = 0x06
    UNEXPORT = 0x07


REQUEST = 0x8000


class Status(IntEnum):
    """Status words that some revision sends; v9 knows the first two, v14 all, mainline reuses 2 to 5."""

    OK = 0
    NOT_AVAILABLE = 1
    NO_FREE_PORT = 2
    NOT_FOUND = 3
    NO_DEVICE = 4
    ERROR = 5


_STATUS_WORDS = {
    Status.NOT_AVAILABLE: "refused (no rule accepts it, or it is not available)",
    Status.NO_FREE_PORT: "no free port, or busy",
    Status.NOT_FOUND: "device not found",
    Status.NO_DEVICE: "no such device",
    Status.ERROR: "error",
}


def status_words(status: int) -> str:
    """What a peer means by a status that is not OK."""
    return _STATUS_WORDS[Status(status)] if status in _STATUS_WORDS else f"status {status}"


@dataclass(frozen=True, slots=True)
class Request:
    """An EXPORT or UNEXPORT request. The device carries only what the wire has."""

    operation: Operation
    device: Device


@dataclass(frozen=True, slots=True)
class ReplyHeader:
    """The eight bytes that every reply begins with."""

    operation: Operation
    status: int


def encode_request(request: Request) -> bytes:
    """The 320 bytes of a request. ValueError when the device does not fit, which no real one does."""
    device = request.device
    return HEADER.pack(VERSION, REQUEST | request.operation, Status.OK) + DEVICE.pack(
        _text(device.sys_path, 256, truncate=True), _text(device.bus_id, 32),
        device.bus_number, device.device_number, device.speed.number,
        int(device.vendor, 16), int(device.product, 16), device.release,
        device.device_class, device.device_subclass, device.device_protocol,
        device.configuration_value, device.configuration_count, device.interface_count)


def decode_request(data: bytes) -> Request:
    """The request in exactly REQUEST_SIZE bytes. ProtocolFault for anything else."""
    if len(data) != REQUEST_SIZE:
        raise ProtocolFault(f"a request of {len(data)} bytes instead of {REQUEST_SIZE}")
    operation = decode_request_header(data[:HEADER.size])
    return Request(operation, _decode_device(data[HEADER.size:]))


def decode_request_header(data: bytes) -> Operation:
    """The operation asked for; known after eight bytes, before anything else has to be awaited."""
    version, code, _status = HEADER.unpack(data)
    if version != VERSION:
        raise ProtocolFault(f"version {version:#06x} instead of {VERSION:#06x}: not the USB/IP we speak")
    if not code & REQUEST or code & ~REQUEST not in Operation._value2member_map_:
        raise ProtocolFault(f"code {code:#06x}: neither EXPORT nor UNEXPORT")
    return Operation(code & ~REQUEST)


def encode_reply(operation: Operation, status: int, *, with_return_code: bool) -> bytes:
    """A reply as v9 of the series sends it (12 bytes, *with_return_code*), or as v14 does (8 bytes).

    v9 cuts the reply to a failing UNEXPORT to 8 bytes, and so do we: its own client reads no more.
    """
    header = HEADER.pack(VERSION, operation, status)
    if not with_return_code or (operation is Operation.UNEXPORT and status != Status.OK):
        return header
    return header + RETURN_CODE.pack(0 if status == Status.OK else RETURN_CODE_FAILED)


def decode_reply_header(data: bytes, expected: Operation) -> ReplyHeader:
    """The first eight bytes of a reply to *expected*. ProtocolFault for anything else."""
    if len(data) != HEADER.size:
        raise ProtocolFault(f"a reply of {len(data)} bytes")
    version, code, status = HEADER.unpack(data)
    if version != VERSION:
        raise ProtocolFault(f"a reply of version {version:#06x} instead of {VERSION:#06x}")
    if code != expected:
        raise ProtocolFault(f"a reply with code {code:#06x} to {expected.name}")
    return ReplyHeader(expected, status)


def is_return_code(peeked: bytes) -> bool:
    """Whether the four bytes after an OK are v9's return code, to be consumed, or the first URB, to be left.

    ProtocolFault when they are neither: such a stream must not be given to the kernel.
    """
    if peeked == RETURN_CODE.pack(0):
        return True
    if peeked == FIRST_URB:
        return False
    raise ProtocolFault(f"{peeked.hex()} after an OK: neither a return code nor a first URB")


def _decode_device(data: bytes) -> Device:
    (path, bus_id, bus_number, device_number, speed, vendor, product, release, device_class, subclass,
     protocol, configuration_value, configuration_count, interface_count) = DEVICE.unpack(data)
    name = _untext(bus_id, "busid")
    if not BUS_ID.fullmatch(name):
        raise ProtocolFault(f"busid {name!r} is none that a kernel gives")
    known_speed = Speed.from_number(speed)
    if known_speed is Speed.UNKNOWN:
        raise ProtocolFault(f"speed {speed} is none that USB/IP carries")
    if bus_number > 0xFFFF or device_number > 0xFFFF:
        raise ProtocolFault(f"bus {bus_number}, device {device_number}: more than a devid holds")
    return Device(
        kind=Kind.VUDC if name.startswith(VUDC_PREFIX) else Kind.USB, bus_id=name, bus_number=bus_number,
        device_number=device_number, speed=known_speed, vendor=f"{vendor:04x}", product=f"{product:04x}",
        release=release, device_class=device_class, device_subclass=subclass, device_protocol=protocol,
        configuration_value=configuration_value, configuration_count=configuration_count,
        interface_count=interface_count, sys_path=_untext(path, "path"))


def _text(text: str, size: int, *, truncate: bool = False) -> bytes:
    encoded = text.encode("utf-8")
    if len(encoded) >= size:
        if not truncate:
            raise ValueError(f"{text!r} does not fit into {size} bytes with its NUL")
        encoded = encoded[: size - 1]
    return encoded


def _untext(data: bytes, what: str) -> str:
    text, separator, padding = data.partition(b"\0")
    if not separator or padding.strip(b"\0"):
        raise ProtocolFault(f"{what} is not padded with NULs")
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        raise ProtocolFault(f"{what} is not text") from None
