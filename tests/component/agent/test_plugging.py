"""From plug to unplug: what the host, the kernel, systemd, the bus and the journal see of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.component.agent.daemon import Machine, end_politely
from tests.component.agent.fake_host import DEADLINE, FIRST_URB
from tests.component.agent.tree import ADAPTER, HUB, KEYBOARD, STICK, VHCI
from usbip_agent import wire
from usbip_agent.bus.client import connect_to
from usbip_agent.names import AGENT
from usbip_agent.report import DeviceReport


async def test_from_plug_to_stop(machine: Machine) -> None:
    with machine.running() as process:
        assert machine.systemd.status == "no USB devices here"
        machine.tree.plug("1-1", STICK)
        visit = machine.host.next()
        assert wire.HEADER.unpack(visit.data[:8]) == (0x0111, 0x8006, 0)
        path, bus_id, *numbers = wire.DEVICE.unpack(visit.data[8:])
        assert path.rstrip(b"\0") == b"/sys/devices/pci0000:00/0000:00:14.0/usb1/1-1"
        assert bus_id.rstrip(b"\0") == b"1-1"
        assert numbers == [1, 2, 3, 0x0781, 0x5567, 0x110, 0, 0, 0, 1, 1, 1]
        assert machine.tree.driver("1-1") == "usb" and machine.kernel.history == []
        visit.accept()
        machine.kernel.until_linked({"1-1"}, DEADLINE)
        assert [line.rpartition(" ")[0] for line in machine.kernel.history] == [
            "drivers/usb/unbind", "drivers/usbip-host/match_busid add", "drivers/usbip-host/bind",
            "devices/1-1/usbip_sockfd"]
        assert machine.systemd.until_status("connected") == "1 connected"
        report = await machine.report("1-1")
        assert (report.state, report.rule, report.host, report.transport) == (
            "connected", "sticks", "lab", "plain")
        assert report.peer == f"127.0.0.1:{machine.host.port}" and report.reason == ""
        assert (report.serial, report.path, report.classes) == (
            "4C53", "pci-0000:00:14.0-usb-0:1", ("storage",))
        assert machine.systemd.exports == {"1-1"}
        assert end_politely(machine, process) == 0
        visit.until_closed()
    assert machine.tree.driver("1-1") == "usb" and machine.kernel.table == []
    assert not list((machine.directory / "runtime/exports").iterdir())
    machine.systemd.until_stored()
    assert f"1-1 (0781:5567 Cruzer Blade) connected to lab (plain, {report.peer})" in machine.said()
    assert "Traceback" not in machine.said()


@pytest.mark.parametrize("with_return_code", [True, False], ids=["v9", "v14"])
def test_the_kernel_gets_the_link_where_the_first_urb_begins(
        machine: Machine, with_return_code: bool) -> None:
    with machine.running():
        machine.tree.plug("1-1", STICK)
        machine.host.next().accept(with_return_code=with_return_code)
        machine.kernel.until_linked({"1-1"}, DEADLINE)
        assert machine.kernel.received("1-1", 100) == FIRST_URB


async def test_what_is_there_at_start_is_as_good_as_plugged(machine: Machine) -> None:
    for bus_id, make in (("1-1", HUB), ("1-1.1", STICK), ("1-1.4", ADAPTER), ("1-2", KEYBOARD)):
        machine.tree.plug(bus_id, make, announced=False)
    machine.tree.plug("4-1", STICK, behind=VHCI, announced=False)
    with machine.running():
        machine.connected("1-1.1")
        assert machine.systemd.status == "1 connected, 2 ignored"
        async with connect_to(AGENT, machine.bus.address) as client:
            shown = {report.bus_id: report.state for report in await client.reports()
                     if isinstance(report, DeviceReport)}
        assert shown == {"1-1.1": "connected", "1-1.4": "ignored", "1-2": "ignored"}
        # Ready means: looked at.
        told = [next(iter(fields)) for fields in machine.systemd.heard]
        first = next(fields for fields in machine.systemd.heard if "STATUS" in fields)
        assert told.index("STATUS") < told.index("READY") and "2 ignored" in first["STATUS"]


def test_neither_hubs_nor_what_is_imported_itself(machine: Machine) -> None:
    machine.configure((STICK_OR_ANYTHING % machine.host.port))
    with machine.running():
        machine.tree.plug("4-1", STICK, behind=VHCI)
        machine.tree.plug("1-1", HUB)
        machine.tree.plug("1-1.2", ADAPTER)
        machine.connected("1-1.2")
        assert machine.systemd.status == "1 connected" and machine.kernel.table == ["1-1.2"]


STICK_OR_ANYTHING = """\
version: 1
hosts: {lab: {address: 127.0.0.1, port: %d, transport: plain}}
default: {connect: lab}
"""


def test_the_echo_of_our_own_doing_changes_nothing(machine: Machine) -> None:
    with machine.running():
        directory = machine.tree.plug("1-1", STICK)
        machine.connected("1-1")
        for action in ("unbind", "bind", "change", "add"):
            machine.tree.tell(directory, action)
        machine.tree.plug("1-2", ADAPTER)
        machine.systemd.until_status("1 connected, 1 ignored")
        assert machine.kernel.linked == {"1-1"}


def test_pulled_out(machine: Machine) -> None:
    with machine.running():
        machine.tree.plug("1-1", STICK)
        visit = machine.connected("1-1")["1-1"]
        machine.kernel.unplug("1-1")
        visit.until_closed()
        machine.systemd.until_status("no USB devices here")
        machine.systemd.until_stored()
        assert machine.kernel.table == []
        assert not list((machine.directory / "runtime/exports").iterdir())


def test_again_and_again(machine: Machine) -> None:
    with machine.running():
        for _ in range(4):
            machine.tree.plug("1-1", STICK)
            machine.connected("1-1")
            machine.kernel.unplug("1-1")
            machine.systemd.until_status("no USB devices here")
        assert machine.kernel.table == []


def test_pulled_out_while_the_host_thinks(machine: Machine) -> None:
    with machine.running():
        machine.tree.plug("1-1", STICK)
        visit = machine.host.next()
        machine.kernel.unplug("1-1")
        visit.until_closed()
        machine.systemd.until_status("no USB devices here")
        assert machine.kernel.table == [] and machine.kernel.history == []


def test_another_device_at_the_same_port(machine: Machine) -> None:
    with machine.running():
        machine.tree.plug("1-1", STICK)
        machine.host.next()
        machine.kernel.unplug("1-1")
        machine.tree.plug("1-1", ADAPTER)
        machine.systemd.until_status("1 ignored")
        assert machine.kernel.table == []


def test_two_that_say_they_are_the_same(machine: Machine) -> None:
    with machine.running():
        for bus_id in ("1-1", "1-2", "1-3"):
            machine.tree.plug(bus_id, STICK)
            machine.host.next().accept()
            machine.kernel.until_linked(set(machine.kernel.linked) | {bus_id}, DEADLINE)
        machine.kernel.unplug("1-1")
        machine.kernel.unplug("1-3")
        machine.systemd.until_status("1 connected")
        machine.tree.plug("1-1", STICK)
        machine.host.next().accept()
        machine.systemd.until_status("2 connected")
    assert [line.partition(" (")[0] for line in machine.said().splitlines() if "the same device" in line] == [
        "1-2 says that it is the same device as 1-1",
        "1-3 says that it is the same device as 1-1 and 1 more",
        "1-1 says that it is the same device as 1-2"]


def test_what_udev_is_told_to_mark(machine: Machine) -> None:
    with machine.running() as process:
        assert 'ATTR{idVendor}=="0781"' in machine.rules
        process.terminate()
        assert process.wait(DEADLINE) == 0
    assert not list((machine.directory / "rules.d").iterdir())


async def test_what_udev_saw_before_it_was_told(machine: Machine) -> None:
    machine.host.go()
    for bus_id, make in (("1-1", STICK), ("1-2", STICK), ("1-3", ADAPTER), ("1-4", ADAPTER)):
        machine.tree.plug(bus_id, make, announced=False)
    for bus_id in ("1-2", "1-4"):
        machine.mark(bus_id)
    with machine.running() as process:
        for bus_id in ("1-1", "1-2"):  # by the first failure it was asked, and not again
            while (await machine.report(bus_id)).attempts < 2:
                pass
        while len(machine.asked_of_udev()) < 4:
            await machine.report("1-1")
        unmarked, marked = ["change 1-1", "change 1-1:1.0"], ["change 1-4", "change 1-4:1.0"]
        assert sorted(machine.asked_of_udev()) == unmarked + marked
        process.terminate()
        assert process.wait(DEADLINE) == 0
    # This udev does nothing, so the end finds what it was once more, and the mark that was right till then.
    assert sorted(machine.asked_of_udev()[4:]) == ["change 1-2", "change 1-2:1.0"] + marked


def test_a_device_that_hangs_holds_up_nobody_else(machine: Machine) -> None:
    """A driver, or the enumeration of a broken neighbour, has its lock."""
    stuck = machine.tree.plug("1-1", STICK, announced=False)
    machine.tree.plug("1-2", STICK, announced=False)
    lock = Lock(stuck / "bConfigurationValue")
    process = machine.start()
    try:
        visit = machine.host.next()
        assert visit.bus_id == "1-2"
        visit.accept()
        machine.kernel.until_linked({"1-2"}, DEADLINE)
        lock.release()
        machine.host.next().accept()
        machine.systemd.until_status("2 connected")
    finally:
        process.kill()
        process.wait(DEADLINE)


class Lock:
    """Keeps whoever reads an attribute until ``release``.

    Opening it does not wait: umockdev opens one file at a time.
    """

    def __init__(self, attribute: Path) -> None:
        self._attribute = attribute
        self._text = attribute.read_text()
        attribute.unlink()
        os.mkfifo(attribute)
        self._fifo = os.open(attribute, os.O_RDWR)

    def release(self) -> None:
        new = self._attribute.with_name("new")
        new.write_text(self._text)
        os.replace(new, self._attribute)
        os.write(self._fifo, self._text.encode())
        os.close(self._fifo)
