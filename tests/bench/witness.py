"""What a bench needs to know from inside a guest, in one program that sleeps until it is needed.

``witness.py wait``: a line on stdout for each USB device that arrives below vhci-hcd, and an answer to each
datagram with the time. It hears the kernel's own uevents. None comes on the host between an attach and the
arrival that ends a measurement, so waiting this way costs what is measured nothing, as polling would.

``witness.py ask ADDRESS COUNT``: the clock of the witness at ADDRESS against ours, as JSON: ``offset``
(theirs minus ours, seconds), ``round_trip`` (seconds) and ``at`` (our time) of the quickest of COUNT
exchanges.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import sys
import time

PORT = 3239
NETLINK_KOBJECT_UEVENT, KERNEL_GROUP = 15, 1
TIMES = struct.Struct(">qqq")       # asked (the asker's clock), received, answered (the witness's)
PATIENCE = 1.0
LOST_AT_MOST = 20


def wait() -> None:
    """Serves until it is ended."""
    events = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, NETLINK_KOBJECT_UEVENT)
    events.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    events.bind((0, KERNEL_GROUP))
    clock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    clock.bind(("", PORT))
    print("ready", flush=True)
    while True:
        for ready in select.select([events, clock], [], [])[0]:
            if ready is clock:
                asked, asker = clock.recvfrom(64)
                now = time.monotonic_ns()
                clock.sendto(TIMES.pack(TIMES.unpack(asked)[0], now, time.monotonic_ns()), asker)
            else:
                report(events.recv(65536))


def report(message: bytes) -> None:
    if message.startswith(b"add@/devices/platform/vhci_hcd") and b"\0DEVTYPE=usb_device\0" in message:
        print("arrived", message.partition(b"\0")[0].rpartition(b"/")[2].decode(), flush=True)


def ask(address: str, count: int) -> dict[str, float]:
    """The quickest of *count* exchanges."""
    samples: list[tuple[int, int, int]] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as clock:
        clock.settimeout(PATIENCE)
        clock.connect((address, PORT))
        lost = 0
        while len(samples) < count:
            clock.send(TIMES.pack(time.monotonic_ns(), 0, 0))
            try:
                asked, received, answered = TIMES.unpack(clock.recv(64))    # be it of an earlier question
            except TimeoutError:
                lost += 1
                if lost > LOST_AT_MOST:
                    raise
                continue
            heard = time.monotonic_ns()
            round_trip = (heard - asked) - (answered - received)
            samples.append((round_trip, (received - asked + answered - heard) // 2, heard))
    round_trip, offset, at = min(samples)
    return {"offset": offset / 1e9, "round_trip": round_trip / 1e9, "at": at / 1e9}


if __name__ == "__main__":
    if sys.argv[1] == "wait":
        wait()
    else:
        print(json.dumps(ask(sys.argv[2], int(sys.argv[3]))))
