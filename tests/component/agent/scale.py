"""What the agent costs with many devices and rules: processor seconds, which other load stretches less."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.component.agent.daemon import Machine, make_machine
from tests.component.agent.tree import Make
from usbip_agent.bus.client import connect_to
from usbip_agent.device import Device, Kind, Speed
from usbip_agent.names import AGENT
from usbip_agent.policy.agent import load_agent_policy

RULES = 5000
REPLUGGED = 100


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one agent with so many devices; times in processor seconds of the agent."""

    devices: int
    start: float
    """Until READY, with all of them looked at."""
    attempts: float
    """Until each has been refused by the host, after a reload that connects them all."""
    replug: float
    """For each of those that are pulled out and plugged in again, among all the others."""
    plug: float
    """Seconds on the clock from udev's event of one more device until its request is at the host."""
    objects: float
    """GetManagedObjects."""
    memory: int
    """KiB, resident, at the end."""


def configuration(rules: int, port: int, *, connect: bool) -> str:
    """Rules of all kinds, of which none matches; then the one that does."""
    kinds = ('{{vendor: "1d50", product: "{0:04x}"}}', '{{serial: "X{0}*", class: storage}}',
             '{{path: "pci-0000:03:*-usb-0:{0}", vendor: [1234, 5678]}}', '{{busid: "99-{0}", kind: usb}}')
    lines = [f"  - {{name: r{number}, match: {kinds[number % len(kinds)].format(number)}, connect: gone}}"
             for number in range(rules - 2)]
    verdict = "connect: lab" if connect else "ignore: true"
    return "\n".join([
        "version: 1", "hosts:", "  gone: {address: 127.0.0.1, port: 1, transport: plain}",
        f"  lab: {{address: 127.0.0.1, port: {port}, transport: plain}}", "rules:", *lines,
        '  - {name: one more, match: {vendor: "10c4"}, connect: lab}',
        f'  - {{name: many, match: {{vendor: "0781"}}, {verdict}}}', ""])


def measure(devices: int, rules: int = RULES) -> Cost:
    """Starts an agent with so many devices, and lets it work."""
    with tempfile.TemporaryDirectory() as directory, make_machine(Path(directory)) as machine:
        machine.configure(configuration(rules, machine.host.port, connect=False))
        bus_ids = [f"{1 + number // 100}-{1 + number % 100}" for number in range(devices)]
        for bus_id in bus_ids:
            machine.tree.plug(bus_id, _one_of_many(bus_id), announced=False)
        with machine.running() as process:
            start = _processor(process.pid)
            if devices:
                machine.systemd.until_status(f"{devices} ignored")
            plug = _time_of_a_plug(machine)
            objects = _cost(process.pid, lambda: asyncio.run(_ask(machine)))
            replugged = bus_ids[-REPLUGGED:]
            replug = _cost(process.pid, lambda: _replug(machine, replugged, devices))
            reload = _cost(process.pid, lambda: _reload(machine, process.pid, rules, [], connect=False))
            attempts = _cost(process.pid, lambda: _reload(machine, process.pid, rules, bus_ids, connect=True))
            return Cost(devices, start, attempts - reload, replug / max(1, len(replugged)), plug, objects,
                        _memory(process.pid))


def decision(rules: int) -> float:
    """Seconds for one decision by the last of so many rules."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "agent.yaml"
        file.write_text(configuration(rules, 1, connect=True))
        policy = load_agent_policy(file, Path(directory) / "agent.d")
    device = Device(Kind.USB, "1-1", 1, 2, Speed.HIGH, "0781", "5567", serial="4C53",
                    interface_classes=frozenset({8}), path="pci-0000:00:14.0-usb-0:1")
    assert policy.decide(device).rule == "many"
    rounds = 20
    before = time.process_time()
    for _ in range(rounds):
        policy.decide(device)
    return (time.process_time() - before) / rounds


def loading(rules: int) -> tuple[float, int]:
    """Processor seconds to read so many rules, and their bytes."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "agent.yaml"
        file.write_text(configuration(rules, 1, connect=True))
        before = time.process_time()
        load_agent_policy(file, Path(directory) / "agent.d")
        return time.process_time() - before, file.stat().st_size


def _one_of_many(bus_id: str) -> Make:
    return Make("0781", "5567", 0, (0x08,), serial=f"SERIAL{bus_id}", model="Cruzer Blade")


def _time_of_a_plug(machine: Machine) -> float:
    before = time.monotonic()
    machine.tree.plug("50-1", Make("10c4", "ea60", 0, (0xFF,), "12"))
    visit = machine.host.next()
    taken = time.monotonic() - before
    visit.accept()
    machine.systemd.until_status("1 connected")
    return taken


async def _ask(machine: Machine) -> None:
    async with connect_to(AGENT, machine.bus.address) as client:
        await client.reports()


def _replug(machine: Machine, bus_ids: list[str], devices: int) -> None:
    for bus_id in bus_ids:
        machine.tree.unplug(bus_id)
        machine.tree.plug(bus_id, _one_of_many(bus_id))
    if bus_ids:
        machine.tree.plug("60-1", _one_of_many("60-1"))
        machine.systemd.until_status(f"1 connected, {devices + 1} ignored")
        machine.tree.unplug("60-1")
        machine.systemd.until_status(f"1 connected, {devices} ignored")


def _reload(machine: Machine, pid: int, rules: int, bus_ids: list[str], *, connect: bool) -> None:
    machine.configure(configuration(rules, machine.host.port, connect=connect))
    os.kill(pid, signal.SIGHUP)
    machine.systemd.until("RELOADING")
    machine.systemd.until("READY")
    left = set(bus_ids)
    while left:
        visit = machine.host.next()
        visit.reject()
        visit.close()
        left.discard(visit.bus_id)


def _cost(pid: int, work: Callable[[], None]) -> float:
    before = _processor(pid)
    work()
    return _processor(pid) - before


def _processor(pid: int) -> float:
    """Seconds that the process has computed (proc(5): utime and stime)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise KeyError("VmRSS")
