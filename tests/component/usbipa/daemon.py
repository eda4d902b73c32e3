"""A running usbipa: its process, what it tells systemd, and peers that export to it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.component.bus.private_bus import REPOSITORY, PrivateBus
from tests.component.usbipa.fake_kernel import FakeKernel
from usbip_agent import wire
from usbip_agent.device import Device, Kind, Speed

DEADLINE = 20.0
"""Seconds for whatever is awaited here; a busy machine may need some of them to start Python."""

LAUNCHER = Path(__file__).with_name("launcher.py")

ACCEPT_ALL = """\
version: 1
listen:
  - {address: 127.0.0.1, port: %d, transports: [plain]}
default: accept
"""


class FakeSystemd:
    """The other end of NOTIFY_SOCKET: the last status, whether it is ready, and the descriptor store."""

    def __init__(self, address: Path) -> None:
        self.address = address
        self.status = ""
        self.ready = 0
        self.stored: dict[str, int] = {}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(address))

    def hear(self, deadline: float = DEADLINE) -> bool:
        """Takes one message; False when none comes within *deadline* seconds."""
        self._socket.settimeout(deadline)
        try:
            data, descriptors, _flags, _address = socket.recv_fds(self._socket, 4096, 1)
        except TimeoutError:
            return False
        fields = dict(line.partition("=")[::2] for line in data.decode("ascii").splitlines())
        self.ready += "READY" in fields
        self.status = fields.get("STATUS", self.status)
        if "FDSTORE" in fields:
            self.stored[fields["FDNAME"]] = descriptors[0]
        elif "FDSTOREREMOVE" in fields:
            os.close(self.stored.pop(fields["FDNAME"]))
        return True

    def until_status(self, text: str) -> None:
        while text not in self.status:
            assert self.hear(), f"the status is still {self.status!r}, not {text!r}"

    @property
    def links(self) -> set[str]:
        """The names of what is stored of imports; listening sockets are there as well."""
        return {name for name in self.stored if name.startswith("import-")}

    def until_stored(self, *names: str) -> None:
        """Waits until these descriptors are in the store and no others."""
        while self.links != set(names):
            assert self.hear(), f"stored are {sorted(self.stored)}"

    def until_ready(self) -> None:
        before = self.ready
        while self.ready == before:
            assert self.hear(), "it is not ready"

    def close(self) -> None:
        self._socket.close()
        for descriptor in self.stored.values():
            os.close(descriptor)


@dataclass
class Machine:
    """What stays when the daemon goes: kernel, systemd, bus, files."""

    directory: Path
    kernel: FakeKernel
    systemd: FakeSystemd
    bus: PrivateBus
    port: int
    peers: list[socket.socket] = field(default_factory=list)

    @property
    def configuration(self) -> Path:
        return self.directory / "usbipa.yaml"

    def configure(self, text: str) -> None:
        self.configuration.write_text(text)

    def start(self, *words: str) -> subprocess.Popen[str]:
        """A daemon, with the descriptors that systemd has for it."""
        stored = list(self.systemd.stored.items())
        environment = {
            **os.environ, "PYTHONPATH": str(REPOSITORY), "DBUS_SYSTEM_BUS_ADDRESS": self.bus.address,
            "NOTIFY_SOCKET": str(self.systemd.address), "RUNTIME_DIRECTORY": str(self.directory / "run"),
            "STATE_DIRECTORY": str(self.directory / "state"),
            "FAKE_SYS": str(self.kernel.sys), "FAKE_KERNEL": self.kernel.address}
        if stored:
            environment["LISTEN_FDS"] = str(len(stored))
            environment["LISTEN_FDNAMES"] = ":".join(name for name, _descriptor in stored)
        numbers = [descriptor for _name, descriptor in stored]

        return subprocess.Popen(
            [sys.executable, "-c", _PLACE_DESCRIPTORS, ",".join(map(str, numbers)),
             sys.executable, str(LAUNCHER), "run", "--config", str(self.configuration), *words],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, pass_fds=numbers)

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[str]]:
        """A daemon that is ready; stopped at the end, if the test has not done so."""
        process = self.start()
        try:
            self.systemd.until_ready()
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate()

    def ask(self, operation: wire.Operation, device: Device) -> tuple[socket.socket, bytes]:
        """A request over a connection of its own; the connection and the reply."""
        peer = socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE)
        self.peers.append(peer)
        peer.sendall(wire.encode_request(wire.Request(operation, device)))
        return peer, peer.recv(12, socket.MSG_WAITALL)

    def export(self, device: Device | None = None) -> socket.socket:
        """The link of an export that was accepted."""
        peer, reply = self.ask(wire.Operation.EXPORT, device or some_device())
        assert reply == wire.encode_reply(wire.Operation.EXPORT, 0, with_return_code=True), reply
        return peer

    def unexport(self, device: Device | None = None) -> int:
        """The status of the reply."""
        _peer, reply = self.ask(wire.Operation.UNEXPORT, device or some_device())
        return int(wire.HEADER.unpack(reply[:8])[2])

    def close(self) -> None:
        for peer in self.peers:
            peer.close()
        self.kernel.stop()
        self.systemd.close()


# Stored descriptors begin at 3, in the order of their names (sd_listen_fds(3)).
_PLACE_DESCRIPTORS = """
import os, sys
numbers = [os.dup(int(number)) for number in sys.argv[1].split(",") if number]
above = [os.dup2(number, 100 + index) for index, number in enumerate(numbers)]
for index, number in enumerate(above):
    os.dup2(number, 3 + index, inheritable=True)
os.closerange(3 + len(above), 400)
os.execv(sys.argv[2], sys.argv[2:])
"""


def some_device(bus_id: str = "1-1", number: int = 2, speed: Speed = Speed.HIGH) -> Device:
    return Device(Kind.USB, bus_id, 1, number, speed, "10c4", "ea60")


def end(process: subprocess.Popen[str], how: signal.Signals = signal.SIGTERM) -> str:
    """Ends the daemon; what it said."""
    process.send_signal(how)
    return process.communicate(timeout=DEADLINE)[1]
