"""usbipa as a process: what peers, systemd and the bus see of it, and what outlives it."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.component.bus.private_bus import PrivateBus, caller
from tests.component.usbipa.daemon import ACCEPT_ALL, DEADLINE, Machine, end, some_device
from usbip_agent import wire
from usbip_agent.bus.client import connect_to
from usbip_agent.bus.marshalling import Message, variant
from usbip_agent.device import Speed
from usbip_agent.errors import ExitStatus
from usbip_agent.names import USBIPA
from usbip_agent.report import ImportReport


async def test_from_export_to_unexport(machine: Machine) -> None:
    with machine.running() as process:
        machine.systemd.until_status(f"0 imported, listening on 127.0.0.1:{machine.port} (plain)")
        link = machine.export()
        machine.kernel.until_ports({0}, DEADLINE)
        machine.systemd.until_status("1 imported")
        async with connect_to(USBIPA, machine.bus.address) as client:
            [report] = await client.reports()
        assert isinstance(report, ImportReport)
        assert (report.bus_id, report.vendor, report.rule) == ("1-1", "10c4", "default")
        assert machine.unexport() == 0
        assert machine.kernel.ports == set()
        assert link.recv(1) == b""
        machine.systemd.until_status("0 imported")
        said = end(process)
        assert process.returncode == ExitStatus.DONE
        assert "ended 1-1 (10c4:ea60) of 127.0.0.1:" in said and "Traceback" not in said
    assert not list((machine.directory / "run/imports").iterdir())


def test_a_link_that_ends_frees_its_port(machine: Machine) -> None:
    with machine.running():
        link = machine.export()
        machine.systemd.until_status("1 imported")
        link.close()
        machine.kernel.until_ports(set(), DEADLINE)
        machine.systemd.until_status("0 imported")
        assert machine.systemd.links == set()


def test_a_stop_gives_every_port_back(machine: Machine) -> None:
    with machine.running() as process:
        links = [machine.export(some_device(f"1-{number}", number)) for number in (1, 2, 3)]
        machine.kernel.until_ports({0, 1, 2}, DEADLINE)
        end(process)
        assert process.returncode == ExitStatus.DONE
    assert machine.kernel.ports == set()
    assert [link.recv(1) for link in links] == [b""] * 3


def test_kill_9_interrupts_nothing(machine: Machine) -> None:
    with machine.running() as process:
        link = machine.export()
        machine.systemd.until_stored("import-0")
        end(process, signal.SIGKILL)
    assert machine.kernel.ports == {0}
    with machine.running():
        machine.systemd.until_status("1 imported")
        assert machine.kernel.ports == {0}
        link.setblocking(False)
        with pytest.raises(BlockingIOError):
            link.recv(1)
        link.close()  # it is watched again: its end is noticed
        machine.systemd.until_status("0 imported")
        assert machine.kernel.ports == set()


def test_what_ended_meanwhile_is_not_adopted(machine: Machine) -> None:
    with machine.running() as process:
        link = machine.export()
        machine.systemd.until_stored("import-0")
        end(process, signal.SIGKILL)
    link.close()
    machine.kernel.until_ports(set(), DEADLINE)
    with machine.running():
        machine.systemd.until_status("0 imported")
        machine.systemd.until_stored()
    assert not list((machine.directory / "run/imports").iterdir())


def test_a_link_that_no_record_tells_of_is_ended(machine: Machine) -> None:
    with machine.running() as process:
        link = machine.export()
        machine.systemd.until_stored("import-0")
        end(process, signal.SIGKILL)
    (machine.directory / "run/imports/0.json").unlink()
    with machine.running():
        machine.kernel.until_ports(set(), DEADLINE)
        assert link.recv(1) == b""
        machine.systemd.until_stored()


@asynccontextmanager
async def restarting(bus: PrivateBus) -> AsyncIterator[None]:
    """A systemd whose job for usbipa is a restart."""
    async with caller(bus) as systemd:
        def answer(call: Message) -> None:
            match call.member, call.body[-1]:
                case "GetUnit", USBIPA.unit:
                    systemd.answer(call, "o", ["/unit"])
                case "Get", "Job":
                    systemd.answer(call, "v", [variant("(uo)", [17, "/job"])])
                case "Get", "JobType":
                    systemd.answer(call, "v", [variant("s", "restart")])

        systemd.on_call = answer
        await systemd.call_bus("RequestName", "su", "org.freedesktop.systemd1", 4)
        yield


async def test_a_restart_leaves_devices_attached(machine: Machine) -> None:
    with machine.running() as process:
        machine.export()
        machine.systemd.until_stored("import-0")
        async with restarting(machine.bus):
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(DEADLINE):
                while process.poll() is None:
                    await asyncio.sleep(0)  # this loop is the bus's other end
            said = process.communicate()[1]
    assert "restarting: imported devices stay attached" in said
    assert machine.kernel.ports == {0} and "import-0" in machine.systemd.links


def test_an_import_that_the_rules_of_today_reject_is_not_kept(machine: Machine) -> None:
    with machine.running() as process:
        machine.export()
        machine.systemd.until_status("1 imported")
        end(process, signal.SIGKILL)
    machine.configure((ACCEPT_ALL % machine.port).replace("default: accept", "default: reject"))
    with machine.running():
        assert machine.kernel.ports == set()


def test_reload(machine: Machine) -> None:
    with machine.running() as process:
        machine.export()
        machine.kernel.until_ports({0}, DEADLINE)
        machine.configure((ACCEPT_ALL % machine.port) + "bogus: 1\n")
        process.send_signal(signal.SIGHUP)
        machine.systemd.until_ready()
        assert machine.kernel.ports == {0}
        machine.configure((ACCEPT_ALL % machine.port).replace("default: accept", "default: reject"))
        process.send_signal(signal.SIGHUP)
        machine.kernel.until_ports(set(), DEADLINE)
        machine.systemd.until_ready()
        said = end(process)
    assert "nothing was changed" in said and "the rules no longer accept it" in said


def test_a_second_one_does_not_start(machine: Machine) -> None:
    with machine.running():
        machine.export()
        machine.kernel.until_ports({0}, DEADLINE)
        second = machine.start()
        _out, said = second.communicate(timeout=DEADLINE)
        assert second.returncode == ExitStatus.UNAVAILABLE
        assert said.startswith("usbipa: another usbipa is running") and said.count("\n") == 1
        assert machine.kernel.ports == {0}


def test_a_port_that_something_else_listens_on(machine: Machine) -> None:
    with socket.create_server(("127.0.0.1", machine.port)):
        process = machine.start()
        _out, said = process.communicate(timeout=DEADLINE)
    assert process.returncode == ExitStatus.UNAVAILABLE
    assert f"cannot listen on 127.0.0.1 port {machine.port}: something else does" in said
    [line] = [line for line in said.splitlines() if not line.startswith("made a key")]
    assert line.startswith("usbipa: cannot listen")


def test_an_invalid_configuration(machine: Machine) -> None:
    machine.configure("version: 1\nlisten: everywhere\n")
    process = machine.start()
    _out, said = process.communicate(timeout=DEADLINE)
    assert process.returncode == ExitStatus.INVALID_CONFIGURATION
    assert "usbipa.yaml:2" in said and "Traceback" not in said


def test_without_the_module_it_runs_and_says_so(machine: Machine) -> None:
    (machine.kernel.sys / "devices/platform/vhci_hcd.0/attach").unlink()
    with machine.running() as process:
        machine.systemd.until_status("vhci-hcd is not loaded")
        _peer, reply = machine.ask(wire.Operation.EXPORT, some_device())
        assert reply[4:8] == b"\0\0\0\1"
        assert "vhci-hcd is not loaded" in end(process)


def test_without_a_bus_devices_come_all_the_same(machine: Machine) -> None:
    machine.bus.stop()
    with machine.running():
        machine.export()
        machine.kernel.until_ports({0}, DEADLINE)


def test_two_hundred_and_forty_at_once(
        machine: Machine, record_property: Callable[[str, object], None]) -> None:
    devices = [some_device(f"{bus}-{number}", number, speed) for number in range(1, 121)
               for bus, speed in ((1, Speed.HIGH), (2, Speed.SUPER))]
    with machine.running() as process:
        before = _memory(process.pid)
        start = time.monotonic()
        links = [socket.create_connection(("127.0.0.1", machine.port), timeout=DEADLINE) for _ in devices]
        machine.peers += links
        for link, device in zip(links, devices, strict=True):
            link.sendall(wire.encode_request(wire.Request(wire.Operation.EXPORT, device)))
        assert {link.recv(12, socket.MSG_WAITALL)[4:8] for link in links} == {bytes(4)}
        machine.kernel.until_ports(set(range(240)), DEADLINE)
        record_property("seconds", round(time.monotonic() - start, 3))
        record_property("KiB", _memory(process.pid))
        assert _memory(process.pid) - before < 8 * 1024
        _peer, reply = machine.ask(wire.Operation.EXPORT, some_device("3-1", 7))
        assert reply[4:8] == b"\0\0\0\2"
        for link in links:
            link.close()
        machine.kernel.until_ports(set(), DEADLINE)
        machine.systemd.until_status("0 imported")


def test_nothing_wakes_it_when_nothing_happens(machine: Machine) -> None:
    with machine.running() as process:
        machine.export()
        machine.systemd.until_status("1 imported,")  # attached: what was to be looked after is done
        assert not machine.systemd.hear(0.5)
        before = _switches(process.pid)
        assert not machine.systemd.hear(2.0)
        assert _switches(process.pid) == before


def _memory(pid: int) -> int:
    return _status(pid, "VmRSS")


def _switches(pid: int) -> int:
    return _status(pid, "voluntary_ctxt_switches")


def _status(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise KeyError(name)
