"""The floor, host's half: the smallest warm program that takes every device it is offered.

Runs in a guest with nothing but Python's own library: accept, read 320 bytes, choose a port, reply, attach.
Ports are taken in turn from a list made at the start, so that no table has to be read while a device waits.

usage: floor_host.py PORT
"""

from __future__ import annotations

import errno
import glob
import itertools
import os
import socket
import struct
import sys
from collections.abc import Iterator, Mapping

DEVICE = struct.Struct(">HHI256s32sIIIHHHBBBBBB")
REPLY = struct.pack(">HHII", 0x0111, 0x0006, 0, 0)
VHCI = "/sys/devices/platform/vhci_hcd.0"
SUPER_SPEED = 5


def main() -> None:
    ports = {hub: itertools.cycle(numbers) for hub, numbers in all_ports().items()}
    attach = os.open(f"{VHCI}/attach", os.O_WRONLY)
    listener = socket.create_server(("", int(sys.argv[1])), backlog=64)
    print("ready", flush=True)
    while True:
        link, _ = listener.accept()
        with link:
            take(link, ports, attach)


def take(link: socket.socket, ports: Mapping[str, Iterator[int]], attach: int) -> None:
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    request = DEVICE.unpack(link.recv(DEVICE.size, socket.MSG_WAITALL))
    bus, device, speed = request[5:8]
    link.sendall(REPLY)
    while True:
        port = next(ports["ss" if speed >= SUPER_SPEED else "hs"])
        try:
            os.write(attach, f"{port} {link.fileno()} {bus << 16 | device} {speed}".encode())
            return
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise


def all_ports() -> dict[str, list[int]]:
    """The ports of both kinds of hubs."""
    ports: dict[str, list[int]] = {"hs": [], "ss": []}
    for table in sorted(glob.glob(f"{VHCI}/status*")):
        with open(table, encoding="ascii") as file:
            for hub, port, *_ in (line.split() for line in file):
                if hub in ports:
                    ports[hub].append(int(port))
    return ports


if __name__ == "__main__":
    main()
