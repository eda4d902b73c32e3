"""vhci-hcd in a thread: tables as files, and a socket that takes what the daemon writes to them.

As the kernel does, it lets go of a link when its peer does. Every device is enumerated at once.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import threading
from dataclasses import dataclass
from pathlib import Path

CONTROLLERS = 8
PORTS_OF_A_HUB = 15
PORTS_OF_A_CONTROLLER = 2 * PORTS_OF_A_HUB


@dataclass
class _Attached:
    kernels: socket.socket
    number: int
    devid: int
    speed: int


class FakeKernel:
    """Made below *directory*; ``stop`` ends it."""

    def __init__(self, directory: Path) -> None:
        self.sys = directory / "sys"
        self.address = str(directory / "kernel")
        self.history: list[str] = []
        self._vhci = self.sys / "devices/platform/vhci_hcd.0"
        self._attached: dict[int, _Attached] = {}
        self._changed = threading.Condition()
        self._make_tree()
        self._calls = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._calls.bind(self.address)
        self._calls.listen(512)
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    @property
    def ports(self) -> set[int]:
        """Those that something is attached to."""
        with self._changed:
            return set(self._attached)

    def until_ports(self, wanted: set[int], deadline: float) -> None:
        """Waits until these ports are used and no others."""
        with self._changed:
            assert self._changed.wait_for(lambda: set(self._attached) == wanted, deadline), (
                f"used are {sorted(self._attached)}; {self.history}")

    def link(self, port: int) -> socket.socket:
        """What was attached to *port*."""
        with self._changed:
            return self._attached[port].kernels

    def stop(self) -> None:
        self._wake.close()
        self._thread.join()
        for port in tuple(self._attached):
            self._let_go(port)
        self._woken.close()
        self._calls.close()

    def _make_tree(self) -> None:
        for controller in range(CONTROLLERS):
            for number, speed in ((2 * controller + 3, 480), (2 * controller + 4, 5000)):
                root_hub = self._vhci.parent / f"vhci_hcd.{controller}" / f"usb{number}"
                root_hub.mkdir(parents=True)
                (root_hub / "speed").write_text(f"{speed}\n")
                (root_hub / "busnum").write_text(f"{number}\n")
            self._show(controller)
        (self._vhci / "nports").write_text(f"{CONTROLLERS * PORTS_OF_A_CONTROLLER}\n")
        (self._vhci / "attach").write_text("")

    def _show(self, controller: int) -> None:
        first = controller * PORTS_OF_A_CONTROLLER
        rows = ["hub port sta spd dev      sockfd local_busid"]
        devices = self.sys / "bus/usb/devices"
        devices.mkdir(parents=True, exist_ok=True)
        for port in range(first, first + PORTS_OF_A_CONTROLLER):
            on_hub = (port - first) % PORTS_OF_A_HUB + 1
            hub = "hs" if port - first < PORTS_OF_A_HUB else "ss"
            bus = 2 * controller + (3 if hub == "hs" else 4)
            found = self._attached.get(port)
            if found is None:
                (devices / f"{bus}-{on_hub}").unlink(missing_ok=True)
            else:
                (devices / f"{bus}-{on_hub}").touch()
            rows.append(
                f"{hub}  {port:04} 004 000 00000000 000000 0-0" if found is None else
                f"{hub}  {port:04} 006 {found.speed:03} {found.devid:08x} {found.number:06} {bus}-{on_hub}")
        path = self._vhci / (f"status.{controller}" if controller else "status")
        new = path.with_name(f".{path.name}")
        new.write_text("\n".join(rows) + "\n")
        os.replace(new, path)

    def _run(self) -> None:
        while True:
            links = {found.kernels.fileno(): port for port, found in self._attached.items()}
            poller = select.poll()
            poller.register(self._woken, select.POLLIN | select.POLLHUP)
            poller.register(self._calls, select.POLLIN)
            for link in links:
                poller.register(link, select.POLLRDHUP)
            for descriptor, _event in poller.poll():
                if descriptor == self._woken.fileno():
                    return
                with self._changed:
                    if descriptor in links:
                        self._let_go(links[descriptor])
                    else:
                        self._answer()
                    self._changed.notify_all()

    def _answer(self) -> None:
        with self._calls.accept()[0] as call:
            data, descriptors, _flags, _address = socket.recv_fds(call, 256, 1)
            self.history.append(data.decode())
            name, *numbers = data.decode().split()
            if name == "attach":
                answer = self._attach(socket.socket(fileno=descriptors[0]), *map(int, numbers))
            else:
                answer = 0 if self._let_go(int(numbers[0])) else errno.EINVAL
            call.send(str(answer).encode())

    def _attach(self, link: socket.socket, port: int, number: int, devid: int, speed: int) -> int:
        if port in self._attached:
            link.close()
            return errno.EBUSY
        self._attached[port] = _Attached(link, number, devid, speed)
        self._show(port // PORTS_OF_A_CONTROLLER)
        return 0

    def _let_go(self, port: int) -> bool:
        found = self._attached.pop(port, None)
        if found is None:
            return False
        try:
            found.kernels.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # its peer was first
        found.kernels.close()
        self._show(port // PORTS_OF_A_CONTROLLER)
        return True
