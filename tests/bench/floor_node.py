"""The floor, node's half: the smallest warm program that exports every USB device of one vendor.

Runs in a guest with nothing but Python's own library. It does what any agent has to do, with the same
events, bytes and sysfs writes, and nothing else: no policy, no records, no journal, no bus, no deadlines.
It hears of a device from udev (a filter in the kernel lets it sleep through all other events), as any
program must that wants the names that udev gives. EXPORT comes before the bind, because that is quicker:
the host attaches, and its kernel waits for the port to settle, while this one binds. ``--bind-first`` is
the other order.

usage: floor_node.py [--bind-first] VENDOR ADDRESS PORT
"""

from __future__ import annotations

import ctypes
import itertools
import os
import socket
import struct
import sys

NETLINK_KOBJECT_UEVENT, UDEV_GROUP, SO_ATTACH_FILTER = 15, 2, 26
UDEV_HEADER = struct.Struct("=8s8I")    # libudev-monitor.c; [3] and [4]: the properties; [6]: hash of DEVTYPE
DEVTYPE_HASH_AT = 28
DEVICE = struct.Struct(">HHI256s32sIIIHHHBBBBBB")
EXPORT, VERSION = 0x8006, 0x0111
REPLY_SIZE = 12
SPEEDS = {"1.5": 1, "12": 2, "480": 3, "5000": 5, "10000": 6, "20000": 6}
DRIVERS = "/sys/bus/usb/drivers"

Properties = dict[str, str]


def main() -> None:
    vendor, address, port = sys.argv[-3:]
    node = Node((address, int(port)), "--bind-first" in sys.argv)
    events = listen("usb_device")
    print("ready", flush=True)
    while True:
        properties = parse(events.recv(65536))
        busid = properties["DEVPATH"].rpartition("/")[2]
        if properties["ACTION"] == "add" and properties.get("PRODUCT", "").startswith(vendor) and (
                os.path.exists(f"/sys{properties['DEVPATH']}")):    # not while it was frozen
            node.plugged(busid, properties)
        elif properties["ACTION"] == "remove" and busid in node.held:
            node.unplugged(busid)


class Node:
    """What it takes to export a device, and to leave the kernel's table clean when it is gone."""

    def __init__(self, host: tuple[str, int], bind_first: bool) -> None:
        self.host = host
        self.bind_first = bind_first
        self.held: dict[str, list[int]] = {}

    def plugged(self, busid: str, properties: Properties) -> None:
        if self.bind_first:
            bind(busid)
        with socket.create_connection(self.host) as link:
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            link.sendall(request(busid, properties))
            reply = link.recv(REPLY_SIZE, socket.MSG_WAITALL)
            if len(reply) != REPLY_SIZE or any(reply[4:]):
                sys.exit(f"{busid}: refused: {reply!r}")
            if not self.bind_first:
                bind(busid)
            write(f"/sys/bus/usb/devices/{busid}/usbip_sockfd", str(link.fileno()))
        bus, parent = int(properties["BUSNUM"]), os.path.realpath(f"/sys/bus/usb/devices/{busid}/..")
        # Held open, so that the entry of the table can be cleared safely when the device is gone.
        self.held[busid] = [os.open(f"/dev/bus/usb/{bus:03}/{number:03}", os.O_RDONLY)
                            for number in (int(properties["DEVNUM"]), int(read(f"{parent}/devnum")))]

    def unplugged(self, busid: str) -> None:
        try:
            write(f"{DRIVERS}/usbip-host/rebind", busid)
        except OSError:
            pass                        # there is nothing to bind it to, and the entry is cleared
        for descriptor in self.held.pop(busid):
            os.close(descriptor)


def bind(busid: str) -> None:
    write(f"{DRIVERS}/usbip-host/match_busid", f"add {busid}")
    write(f"{DRIVERS}/usb/unbind", busid)
    write(f"{DRIVERS}/usbip-host/bind", busid)


def request(busid: str, properties: Properties) -> bytes:
    """OP_REQ_EXPORT: 320 bytes."""
    directory = f"/sys/bus/usb/devices/{busid}"
    vendor, product, release = (int(word, 16) for word in properties["PRODUCT"].split("/"))
    classes = (int(word) for word in properties["TYPE"].split("/"))
    return DEVICE.pack(
        VERSION, EXPORT, 0, f"/sys{properties['DEVPATH']}".encode(), busid.encode(),
        int(properties["BUSNUM"]), int(properties["DEVNUM"]), SPEEDS[read(f"{directory}/speed")],
        vendor, product, release, *classes, int(read(f"{directory}/bConfigurationValue") or 0),
        int(read(f"{directory}/bNumConfigurations")), int(read(f"{directory}/bNumInterfaces") or 0))


def listen(devtype: str) -> socket.socket:
    """udev's events of one device type; the kernel drops all others."""
    class Instruction(ctypes.Structure):
        _fields_ = [("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte),
                    ("k", ctypes.c_uint)]
    program = (Instruction * 4)(*itertools.starmap(Instruction, (
        (0x20, 0, 0, DEVTYPE_HASH_AT), (0x15, 0, 1, murmur(devtype.encode())),
        (0x06, 0, 0, 0xFFFFFFFF), (0x06, 0, 0, 0))))
    events = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, NETLINK_KOBJECT_UEVENT)
    events.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER,
                      struct.pack("HxxxxxxP", len(program), ctypes.addressof(program)))
    events.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    events.bind((0, UDEV_GROUP))
    return events


def parse(message: bytes) -> Properties:
    header = UDEV_HEADER.unpack_from(message)
    pairs = message[header[3]:header[3] + header[4]].decode("utf-8", "replace").split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def murmur(data: bytes) -> int:
    """MurmurHash2 with seed 0, as udev uses it in its messages' header."""
    factor, mask = 0x5BD1E995, 0xFFFFFFFF
    digest = len(data)
    whole = len(data) & ~3
    for (word,) in struct.iter_unpack("<I", data[:whole]):
        word = word * factor & mask
        word = (word ^ word >> 24) * factor & mask
        digest = digest * factor & mask ^ word
    rest = data[whole:]
    if rest:
        digest = (digest ^ int.from_bytes(rest, "little")) * factor & mask
    digest = (digest ^ digest >> 13) * factor & mask
    return digest ^ digest >> 15


def read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read().strip()


def write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    main()
