"""The daemon as a process: how it starts, stops, restarts and rests."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from tests.component.agent.daemon import Machine, end, end_politely
from tests.component.agent.fake_host import DEADLINE
from tests.component.agent.tree import ADAPTER, STICK
from tests.component.bus.test_bus_systemd import fake_systemd
from usbip_agent.errors import ExitStatus


def test_stop_gives_everything_back(machine: Machine) -> None:
    bus_ids = [f"1-{number}" for number in range(1, 5)]
    for bus_id in bus_ids:
        machine.tree.plug(bus_id, STICK, announced=False)
    with machine.running() as process:
        machine.connected(*bus_ids)
        assert end_politely(machine, process, 4) == ExitStatus.DONE
    assert {machine.tree.driver(bus_id) for bus_id in bus_ids} == {"usb"}
    assert machine.kernel.table == []
    machine.systemd.until("STOPPING")


def test_stop_right_after_the_start(machine: Machine) -> None:
    for _ in range(3):
        with machine.running() as process:
            assert end(process) == ExitStatus.DONE


def test_stop_while_the_host_is_silent(machine: Machine) -> None:
    machine.tree.plug("1-1", STICK, announced=False)
    machine.tree.plug("1-2", STICK, announced=False)
    with machine.running(FAKE_DEADLINE="2") as process:
        visits = {visit.bus_id: visit for visit in (machine.host.next(), machine.host.next())}
        visits["1-1"].accept()
        machine.kernel.until_linked({"1-1"}, DEADLINE)
        machine.systemd.until_status("1 connected")
        assert end(process) == ExitStatus.DONE
    assert machine.kernel.table == [] and machine.tree.driver("1-1") == "usb"


async def test_a_restart_keeps_the_link(machine: Machine) -> None:
    machine.tree.plug("1-1", STICK, announced=False)
    with machine.running() as process:
        visit = machine.connected("1-1")["1-1"]
        since = (await machine.report("1-1")).since
        async with fake_systemd(machine.bus, "restart"):
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, DEADLINE) == ExitStatus.DONE
    assert "restarting: connected devices stay connected" in machine.said()
    assert machine.kernel.linked == {"1-1"} and machine.systemd.exports == {"1-1"}
    await adopted(machine, since)
    visit.close()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV])
async def test_a_crash_keeps_the_link(machine: Machine, how: signal.Signals) -> None:
    machine.tree.plug("1-1", STICK, announced=False)
    with machine.running() as process:
        machine.connected("1-1")
        since = (await machine.report("1-1")).since
        machine.systemd.until_stored("1-1")
        end(process, how)
    await adopted(machine, since)


async def adopted(machine: Machine, since: int) -> None:
    """Another daemon takes the link over, touches nothing, and notices when it ends."""
    before = list(machine.kernel.history)
    with machine.running() as process:
        assert machine.systemd.until_status("connected") == "1 connected"
        report = await machine.report("1-1")
        assert (report.state, report.host, report.peer) == (
            "connected", "lab", f"127.0.0.1:{machine.host.port}")
        assert abs(report.since - since) < 30_000_000
        assert machine.kernel.history == before and machine.host.nobody_comes(0.3)
        assert end_politely(machine, process) == ExitStatus.DONE
    assert machine.tree.driver("1-1") == "usb" and machine.kernel.table == []


async def test_the_end_of_an_adopted_link_is_noticed(machine: Machine) -> None:
    machine.tree.plug("1-1", STICK, announced=False)
    with machine.running() as process:
        visit = machine.connected("1-1")["1-1"]
        machine.systemd.until_stored("1-1")
        end(process, signal.SIGKILL)
    with machine.running():
        machine.systemd.until_status("1 connected")
        visit.close()
        machine.host.next().accept()
        machine.kernel.until_linked({"1-1"}, DEADLINE)


def test_what_ended_meanwhile_is_connected_anew(machine: Machine) -> None:
    machine.tree.plug("1-1", STICK, announced=False)
    with machine.running() as process:
        visit = machine.connected("1-1")["1-1"]
        end(process, signal.SIGKILL)
    visit.close()
    machine.kernel.until_linked(set(), DEADLINE)
    with machine.running():
        machine.host.next().accept()
        machine.kernel.until_linked({"1-1"}, DEADLINE)


@pytest.mark.parametrize("steps", [1, 2, 3], ids=["listed", "without a driver", "bound"])
def test_a_bind_that_was_cut_short_is_finished(machine: Machine, steps: int) -> None:
    machine.tree.plug("1-1", STICK, announced=False)
    for attribute, value in (("drivers/usbip-host/match_busid", "add 1-1"), ("drivers/usb/unbind", "1-1"),
                             ("drivers/usbip-host/bind", "1-1"))[:steps]:
        machine.kernel.write(attribute, value)
    before = len(machine.kernel.history)
    with machine.running() as process:
        machine.connected("1-1")
        machine.kernel.until_linked({"1-1"}, DEADLINE)
        if steps == 3:
            assert [line.split()[0] for line in machine.kernel.history[before:]] == [
                "devices/1-1/usbip_sockfd"]
        assert end_politely(machine, process) == ExitStatus.DONE
    assert machine.tree.driver("1-1") == "usb" and machine.kernel.table == []


def test_what_was_pulled_out_meanwhile_leaves_nothing(machine: Machine) -> None:
    machine.tree.plug("1-1", STICK, announced=False)
    with machine.running() as process:
        machine.connected("1-1")
        machine.systemd.until_stored("1-1")
        end(process, signal.SIGKILL)
    machine.kernel.unplug("1-1")
    with machine.running():
        machine.systemd.until_status("no USB devices here")
        machine.systemd.until_stored()
    assert machine.kernel.table == []
    assert not list((machine.directory / "runtime/exports").iterdir())


def test_a_second_one_does_not_start(machine: Machine) -> None:
    machine.tree.plug("1-1", STICK, announced=False)
    with machine.running():
        machine.connected("1-1")
        before = len(machine.said())
        assert machine.start().wait(DEADLINE) == ExitStatus.UNAVAILABLE
        said = machine.said()[before:]
        assert said.startswith("usbip-agent: the D-Bus name org.usbip.Agent1 is held by process ")
        assert said.count("\n") == 1
        assert machine.kernel.linked == {"1-1"}


def test_an_invalid_configuration(machine: Machine) -> None:
    machine.configure("version: 1\nrules: all of them\nbogus: 1\n")
    assert machine.start().wait(DEADLINE) == ExitStatus.INVALID_CONFIGURATION
    said = machine.said()
    assert "agent.yaml:2: rules: a list must stand here" in said and said.count("\n") == 1, said


def test_without_a_bus_devices_go_all_the_same(machine: Machine) -> None:
    machine.bus.stop()
    with machine.running() as process:
        machine.tree.plug("1-1", STICK)
        machine.connected("1-1")
        assert end_politely(machine, process) == ExitStatus.DONE
    assert machine.tree.driver("1-1") == "usb"


def test_the_watchdog_is_fed(machine: Machine) -> None:
    with machine.running(WATCHDOG_USEC="400000"):
        machine.systemd.until("WATCHDOG")
        machine.systemd.until("WATCHDOG")


def test_nothing_wakes_it_but_the_watchdog(machine: Machine) -> None:
    machine.tree.plug("1-1", STICK, announced=False)
    machine.tree.plug("1-2", ADAPTER, announced=False)
    with machine.running(WATCHDOG_USEC="2000000") as process:
        machine.connected("1-1")
        machine.systemd.quiet(1.0)
        # The network and the mounts of this machine are real, and nobody keeps them still.
        for _ in range(8):
            before = _switches(process.pid)
            heard = machine.systemd.quiet(2.5)
            woken = _switches(process.pid) - before
            if woken <= len(heard):
                break
        assert heard and all(fields == {"WATCHDOG": "1"} for fields in heard)
        assert woken <= len(heard)


def _switches(pid: int) -> int:
    """How often any of its threads went to sleep."""
    lines = [line for task in Path(f"/proc/{pid}/task").iterdir()
             for line in (task / "status").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches:"))
