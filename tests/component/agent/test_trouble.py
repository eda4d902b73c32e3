"""Hosts that refuse, hang, lie and die: a state with a reason, and nobody else pays for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.component.agent.daemon import Machine
from tests.component.agent.fake_host import DEADLINE, FakeHost, Visit
from tests.component.agent.tree import STICK
from usbip_agent import wire


async def test_rejected(machine: Machine) -> None:
    with machine.running():
        machine.tree.plug("1-1", STICK)
        machine.host.next().reject()
        assert machine.systemd.until_status("waiting") == (
            "1 waiting (lab: the host says no: refused (no rule accepts it, or it is not available), "
            "next try in 1 s)")
        report = await machine.until_state("1-1", "waiting")
        assert report.reason.startswith("lab: the host says no: refused") and report.attempts == 1
        assert report.next_attempt > report.since
        machine.host.next().reject(wire.Status.NO_FREE_PORT)
        machine.systemd.until_status("no free port")
        assert machine.tree.driver("1-1") == "usb" and machine.kernel.history == []
        machine.host.next().accept()
        assert machine.systemd.until_status("connected") == "1 connected"
        assert "waiting: lab: the host says no" in machine.said()


async def test_nobody_listens(machine: Machine) -> None:
    machine.host.go()
    with machine.running():
        machine.tree.plug("1-1", STICK)
        machine.systemd.until_status("1 waiting (lab: ")
        report = await machine.until_state("1-1", "waiting")
        assert "refused" in report.reason
        assert machine.kernel.history == []
        machine.host.come_back()
        machine.connected("1-1")


@pytest.mark.parametrize(("answer", "reason"), [
    (lambda visit: visit.close(), "lab: "),
    (lambda visit: visit.peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "not the USB/IP|version"),
    (lambda visit: visit.peer.sendall(bytes(12)), "version 0x0000"),
    (lambda visit: visit.peer.sendall(b"\x01\x11\0\7\0\0\0\0"), "code 0x0007"),
], ids=["hangs up", "another protocol", "zeros", "another answer"])
async def test_nonsense(machine: Machine, answer: Callable[[Visit], None], reason: str) -> None:
    with machine.running():
        machine.tree.plug("1-1", STICK)
        answer(machine.host.next())
        report = await machine.until_state("1-1", "waiting")
        assert any(each in report.reason for each in reason.split("|")), report.reason
        assert machine.kernel.history == []
        machine.host.next().accept()
        machine.kernel.until_linked({"1-1"}, DEADLINE)


async def test_ok_and_then_nonsense_gives_the_kernel_nothing(machine: Machine) -> None:
    with machine.running():
        machine.tree.plug("1-1", STICK)
        visit = machine.host.next()
        visit.peer.sendall(b"\x01\x11\0\6\0\0\0\0" + b"\xff\xff\xff\xff")
        report = await machine.until_state("1-1", "waiting")
        assert "ffffffff after an OK" in report.reason
        assert not [line for line in machine.kernel.history if "sockfd" in line]


def test_one_that_hangs_holds_back_no_other(machine: Machine) -> None:
    """Thirty-two at once, of which the host leaves one waiting, and the kernel another one."""
    machine.kernel.entries = 64
    machine.kernel.never_answers.add("drivers/usb/unbind 1-7")
    bus_ids = {f"1-{number}" for number in range(1, 33)}
    for bus_id in bus_ids:
        machine.tree.plug(bus_id, STICK, announced=False)
    with machine.running(FAKE_DEADLINE="10", FAKE_ENTRIES="64"):
        visits = {visit.bus_id: visit for visit in (machine.host.next() for _ in bus_ids)}
        assert visits.keys() == bus_ids
        for bus_id in bus_ids - {"1-20"}:
            visits[bus_id].accept()
        machine.kernel.until_linked(bus_ids - {"1-7", "1-20"}, DEADLINE)
        machine.systemd.until_status("30 connected, 1 connecting, 1 binding")
        assert "no answer to EXPORT for 10 s" in machine.systemd.until_status("1 waiting")
        visits["1-20"].until_closed()
        machine.host.next().accept()
        machine.systemd.until_status("31 connected, 1 binding")


def test_more_than_the_stub_can_hold(machine: Machine) -> None:
    bus_ids = [f"1-{number}" for number in range(1, 18)]
    for bus_id in bus_ids[:-1]:
        machine.tree.plug(bus_id, STICK, announced=False)
    with machine.running():
        for _ in bus_ids[:-1]:
            machine.host.next().accept()
        machine.systemd.until_status("16 connected")
        machine.tree.plug(bus_ids[-1], STICK)
        machine.systemd.until_status(
            "16 connected, 1 waiting (usbip-host holds 16 devices, and that is all it can hold")
        assert machine.tree.driver(bus_ids[-1]) == "usb"
        assert machine.host.nobody_waits(), "the host was to give it a port for nothing"


async def test_the_link_ends_and_comes_back(machine: Machine) -> None:
    with machine.running():
        machine.tree.plug("1-1", STICK)
        machine.connected("1-1")["1-1"].close()
        assert (await machine.until_state("1-1", "waiting")).reason == "the link to lab ended"
        assert machine.tree.driver("1-1") == "usbip-host"  # a re-export needs no rebind
        visit = machine.host.next()
        visit.accept()
        machine.kernel.until_linked({"1-1"}, DEADLINE)
        assert (await machine.until_state("1-1", "connected")).reason == ""
        assert len([line for line in machine.kernel.history if "usbip-host/bind" in line]) == 1


async def test_the_next_host_of_the_list(machine: Machine) -> None:
    machine.configure(f"""\
version: 1
hosts:
  gone: {{address: 127.0.0.1, port: 1, transport: plain}}
  lab: {{address: 127.0.0.1, port: {machine.host.port}, transport: plain}}
default: {{connect: [gone, lab]}}
""")
    machine.tree.plug("1-1", STICK, announced=False)
    with machine.running():
        machine.connected("1-1")
        assert (await machine.report("1-1")).host == "lab"


def test_a_preferred_host_that_comes_back_is_probed(machine: Machine) -> None:
    preferred = FakeHost()
    preferred.go()
    machine.configure(f"""\
version: 1
hosts:
  away: {{address: 127.0.0.1, port: {preferred.port}, transport: plain}}
  lab: {{address: 127.0.0.1, port: {machine.host.port}, transport: plain}}
rules:
  - {{name: sticks, connect: [away, lab], failback: 10s}}
""")
    machine.tree.plug("1-1", STICK, announced=False)
    with machine.running():
        machine.connected("1-1")
        preferred.come_back()
        assert preferred.visited() == b"", "it was there, and asked for nothing"
        assert machine.kernel.linked == {"1-1"}
    preferred.close()


def test_without_the_module_it_runs_and_says_so(machine: Machine) -> None:
    driver = machine.tree.bus / "drivers/usbip-host"
    away = driver.rename(driver.with_name("away"))
    machine.tree.plug("1-1", STICK, announced=False)
    with machine.running(FAKE_PATIENCE="yes"):
        machine.systemd.until_status("the kernel module usbip-host is not loaded (modprobe usbip-host)")
        away.rename(driver)
        machine.tree.load("usbip_host")
        machine.connected("1-1")


async def test_what_the_system_stands_on_is_left_alone(machine: Machine) -> None:
    table = mounted_stick(machine)
    with machine.running() as process:
        report = await machine.until_state("1-1", "blocked")
        assert report.reason == "/dev/sda is mounted on /srv"
        assert machine.host.nobody_comes(0.5) and machine.kernel.history == []
        assert machine.asked_of_udev() == []  # nor is anybody told to ignore it, who could unmount it
        table.write_text("")
        process.send_signal(1)  # its timer would come to it as well
        machine.connected("1-1")


def mounted_stick(machine: Machine) -> Path:
    """A stick that is mounted on /srv, as the table says that is returned."""
    table = machine.directory / "proc/1/mountinfo"
    table.parent.mkdir(parents=True)
    table.write_text("40 22 8:0 / /srv rw,relatime shared:1 - ext4 /dev/sda rw\n")
    machine.tree.plug("1-1", STICK, announced=False)
    machine.tree.disk("1-1", "sda", "8:0")
    return table


def test_what_a_rule_forces_is_taken_all_the_same(machine: Machine) -> None:
    mounted_stick(machine)
    machine.configure(machine.configuration.read_text().replace("connect: lab", "connect: lab, force: true"))
    with machine.running():
        machine.connected("1-1")
