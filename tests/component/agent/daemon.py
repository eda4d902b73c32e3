"""A running usbip-agent: its process, and everything around it that stays when it goes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.component.agent.fake_host import DEADLINE, FakeHost, Visit
from tests.component.agent.fake_stub import FakeStub
from tests.component.agent.fake_systemd import FakeSystemd
from tests.component.agent.tree import PRELOAD, Tree
from tests.component.bus.private_bus import PERMISSIVE, REPOSITORY, PrivateBus, private_bus
from usbip_agent import wire
from usbip_agent.bus.client import Added, Changed, Vanished, connect_to
from usbip_agent.device_side.claim_rules import UDEV_CLAIMED
from usbip_agent.names import AGENT
from usbip_agent.report import DeviceReport

LAUNCHER = Path(__file__).with_name("launcher.py")

STICKS = """\
version: 1
hosts: {lab: {address: 127.0.0.1, port: %d, transport: plain}}
rules:
  - {name: sticks, match: {vendor: "0781"}, connect: lab}
"""

# Stored descriptors begin at 3, in the order of their names (sd_listen_fds(3)).
_PLACE_DESCRIPTORS = """
import os, sys
numbers = [os.dup(int(number)) for number in sys.argv[1].split(",") if number]
above = [os.dup2(number, 100 + index) for index, number in enumerate(numbers)]
for index, number in enumerate(above):
    os.dup2(number, 3 + index, inheritable=True)
os.closerange(3 + len(above), 400)
os.environ["LD_PRELOAD"] = sys.argv[2]
os.execv(sys.argv[3], sys.argv[3:])
"""


@dataclass
class Machine:
    """Devices, kernel, systemd, bus, a host to export to, and files."""

    directory: Path
    tree: Tree
    kernel: FakeStub
    systemd: FakeSystemd
    bus: PrivateBus
    host: FakeHost

    @property
    def configuration(self) -> Path:
        return self.directory / "agent.yaml"

    @property
    def rules(self) -> str:
        """What udev was told to mark."""
        [file] = (self.directory / "rules.d").iterdir()
        return file.read_text()

    def mark(self, bus_id: str) -> None:
        """Has udev remember that a device is claimed."""
        number = (self.tree.bus / "devices" / bus_id / "dev").read_text().strip()
        record = self.directory / "run/udev/data" / f"c{number}"
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(f"E:{UDEV_CLAIMED}=1\n")

    def asked_of_udev(self) -> list[str]:
        """The events that udev was asked for: ``change 1-1``."""
        log = self.directory / "uevents"
        return log.read_text().splitlines() if log.exists() else []

    def configure(self, text: str) -> None:
        self.configuration.write_text(text)

    def said(self) -> str:
        """What all daemons of this machine have said so far."""
        return (self.directory / "journal").read_text()

    def start(self, **environment: str) -> subprocess.Popen[bytes]:
        """A daemon, with the descriptors that systemd has for it."""
        stored = list(self.systemd.stored.items())
        around = {
            **os.environ, "PYTHONPATH": str(REPOSITORY), "UMOCKDEV_DIR": str(self.tree.root),
            "DBUS_SYSTEM_BUS_ADDRESS": self.bus.address, "NOTIFY_SOCKET": str(self.systemd.address),
            "RUNTIME_DIRECTORY": str(self.directory / "runtime"),
            "STATE_DIRECTORY": str(self.directory / "state"), "FAKE_MACHINE": str(self.directory),
            **environment}
        if stored:
            around["LISTEN_FDS"] = str(len(stored))
            around["LISTEN_FDNAMES"] = ":".join(name for name, _descriptor in stored)
        numbers = [descriptor for _name, descriptor in stored]
        with (self.directory / "journal").open("a") as journal:
            return subprocess.Popen(
                [sys.executable, "-c", _PLACE_DESCRIPTORS, ",".join(map(str, numbers)), PRELOAD,
                 sys.executable, str(LAUNCHER), "run", "--config", str(self.configuration)],
                env=around, stdout=journal, stderr=journal, pass_fds=numbers)

    @contextmanager
    def running(self, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
        """A daemon that is ready; killed at the end, if the test has not ended it."""
        process = self.start(**environment)
        try:
            self.systemd.until("READY")
            yield process
        except BaseException:
            print(self.said())
            raise
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(DEADLINE)

    def connected(self, *bus_ids: str) -> dict[str, Visit]:
        """Accepts as many exports, of exactly these devices; the links."""
        visits = [self.host.next() for _ in bus_ids]
        for visit in visits:
            visit.accept()
        assert sorted(visit.bus_id for visit in visits) == sorted(bus_ids)
        self.systemd.until_status(f"{len(bus_ids)} connected")
        return {visit.bus_id: visit for visit in visits}

    async def report(self, bus_id: str) -> DeviceReport:
        """What the bus shows of a device."""
        async with connect_to(AGENT, self.bus.address) as client:
            [found] = [each for each in await client.reports()
                       if isinstance(each, DeviceReport) and each.bus_id == bus_id]
        return found

    async def until_state(self, bus_id: str, state: str) -> DeviceReport:
        """Waits until the bus shows a device in *state*."""
        async with asyncio.timeout(DEADLINE), connect_to(AGENT, self.bus.address) as client:
            async with aclosing(client.changes(initial=True)) as changes:
                async for change in changes:
                    if isinstance(change, Vanished):
                        break
                    if isinstance(change, Added | Changed) and isinstance(change.report, DeviceReport):
                        if (change.report.bus_id, change.report.state) == (bus_id, state):
                            return change.report
        raise AssertionError(f"the daemon has left the bus before {bus_id} was {state}")

    def close(self) -> None:
        self.host.close()
        self.kernel.stop()
        self.systemd.close()
        self.tree.close()


@contextmanager
def make_machine(directory: Path) -> Iterator[Machine]:
    """A machine with nothing plugged in, whose agent connects sticks."""
    (directory / "rules.d").mkdir()
    with private_bus(PERMISSIVE) as bus:
        tree = Tree()
        machine = Machine(directory, tree, FakeStub(tree, directory / "kernel"),
                          FakeSystemd(directory / "notify"), bus, FakeHost())
        machine.configure(STICKS % machine.host.port)
        try:
            yield machine
        finally:
            machine.close()


def end(process: subprocess.Popen[bytes], how: signal.Signals = signal.SIGTERM) -> int:
    """Ends the daemon; its exit status."""
    process.send_signal(how)
    return process.wait(DEADLINE)


def end_politely(machine: Machine, process: subprocess.Popen[bytes], connected: int = 1) -> int:
    """Ends the daemon for good, with a host that answers the goodbyes of so many devices; its exit status."""
    process.send_signal(signal.SIGTERM)
    for _ in range(connected):
        machine.host.next(wire.Operation.UNEXPORT).accept()
    return process.wait(DEADLINE)
