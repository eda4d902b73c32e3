"""A full disk, a runtime directory that is gone, a huge policy, a udev that is late: devices go on."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.component.agent import udev
from tests.component.agent.daemon import Machine, end, end_politely
from tests.component.agent.fake_host import DEADLINE
from tests.component.agent.tree import ADAPTER, STICK, Tree
from tests.component.hostile import HANGS, UNKNOWN, asked_meanwhile, fill_the_disk, write_huge_rules
from usbip_agent.bus.client import connect_to
from usbip_agent.names import AGENT

ENDS = {"configuration loaded", "nothing was changed"}
"""What is said last of a reload."""


def records(machine: Machine) -> Path:
    return machine.directory / "runtime/exports"


def fill(machine: Machine, *bus_ids: str) -> None:
    fill_the_disk(records(machine), *bus_ids)


def test_a_full_disk(machine: Machine) -> None:
    (machine.directory / "rules.d/.61-usbip-agent-claims.rules.new").symlink_to("/dev/full")
    fill(machine, "1-1", "1-2")
    with machine.running() as process:
        machine.tree.plug("1-1", STICK)
        machine.connected("1-1")
        machine.tree.plug("1-2", STICK)
        machine.host.next().accept()
        machine.systemd.until_status("2 connected")
        assert list(records(machine).iterdir()) == []
        assert [line for line in machine.said().splitlines() if UNKNOWN in line] == [
            f"1-1: {UNKNOWN}, as nothing can be written to {records(machine)}: No space left on device"]
        machine.kernel.unplug("1-1")
        machine.systemd.until_status("1 connected")
        machine.tree.plug("1-1", STICK)  # now there is room
        machine.host.next().accept()
        machine.systemd.until_status("2 connected")
        assert [path.name for path in records(machine).iterdir()] == ["1-1.json"]
        assert end_politely(machine, process, 2) == 0
    assert machine.tree.driver("1-1") == machine.tree.driver("1-2") == "usb"
    assert list(records(machine).iterdir()) == []
    assert machine.said().count(UNKNOWN) == 1 and "Traceback" not in machine.said()


def test_what_a_full_disk_has_not_kept_is_connected_anew(machine: Machine) -> None:
    fill(machine, "1-1")
    machine.tree.plug("1-1", STICK, announced=False)
    with machine.running() as process:
        visit = machine.connected("1-1")["1-1"]
        assert "export-1-1" in machine.systemd.stored
        end(process, signal.SIGKILL)
    with machine.running():
        visit.until_closed()
        machine.host.next().accept()
        machine.systemd.until_status("1 connected")
        assert machine.kernel.linked == {"1-1"}


def test_an_old_record_does_not_outlive_one_that_cannot_be_written(machine: Machine) -> None:
    machine.tree.plug("1-1", STICK, announced=False)
    with machine.running():
        machine.connected("1-1")
        fill(machine, "1-1")
        machine.kernel.link("1-1").shutdown(2)
        machine.host.next().accept()
        machine.kernel.until(lambda: "1-1" in machine.kernel.linked, DEADLINE)
        assert list(records(machine).iterdir()) == []


def test_no_runtime_directory_to_be_had(machine: Machine) -> None:
    (machine.directory / "runtime").write_text("")
    (machine.directory / "state").write_text("")
    with machine.running() as process:
        for bus_id in ("1-1", "1-2"):
            machine.tree.plug(bus_id, STICK)
            machine.host.next().accept()
        machine.systemd.until_status("2 connected")
        machine.kernel.unplug("1-1")
        machine.systemd.until_status("1 connected")
        machine.tree.plug("1-1", STICK)
        machine.host.next().accept()
        machine.systemd.until_status("2 connected")
        assert end_politely(machine, process, 2) == 0
    assert machine.said().count(UNKNOWN) == 1 and "Traceback" not in machine.said()


def test_the_runtime_directory_goes(machine: Machine) -> None:
    assert not (machine.directory / "runtime").exists()
    with machine.running() as process:
        machine.tree.plug("1-1", STICK)
        machine.connected("1-1")
        shutil.rmtree(machine.directory / "runtime")
        machine.tree.plug("1-2", STICK)
        machine.host.next().accept()
        machine.systemd.until_status("2 connected")
        assert [path.name for path in records(machine).iterdir()] == ["1-2.json"]
        assert end_politely(machine, process, 2) == 0
    assert UNKNOWN not in machine.said() and "Traceback" not in machine.said()


@pytest.mark.parametrize("number", ["", "001"], ids=["of whatever is there", "of the one before"])
def test_udev_tells_late_of_one_that_was_there_before(machine: Machine, number: str) -> None:
    """Its ``add`` is heard when another one is there; then its ``remove``, then the other's ``add``."""
    with machine.running():
        directory = machine.tree.plug("1-1", STICK)
        visit = machine.host.next()
        _tell(machine.tree, directory, "remove", number)
        machine.tree.tell(directory, "add")
        if not number:
            visit.until_closed()
            visit = machine.host.next()
        visit.accept()
        machine.systemd.until_status("1 connected")
        machine.kernel.until_linked({"1-1"}, DEADLINE)
        machine.tree.plug("1-2", ADAPTER)  # what came before that has been heard
        assert machine.systemd.until_status("1 ignored") == "1 connected, 1 ignored"


def _tell(tree: Tree, directory: Path, action: str, number: str) -> None:
    properties = {"ACTION": action, "SEQNUM": "999", "SUBSYSTEM": "usb", "DEVTYPE": "usb_device",
                  "DEVPATH": f"/{directory.relative_to(tree.root / 'sys')}"}
    udev.tell(tree.root, {**properties, **({"DEVNUM": number} if number else {})})


async def test_a_huge_policy(machine: Machine, monkeypatch: pytest.MonkeyPatch,
                             record_property: Callable[[str, object], None]) -> None:
    """The agent goes on with its work while it reads it."""
    monkeypatch.setattr("usbip_agent.bus.client.CALL_DEADLINE", HANGS)
    with machine.running() as process:
        machine.tree.plug("1-1", STICK)
        machine.connected("1-1")
        count = 1 + write_huge_rules(
            machine.configuration, '{name: r%d, match: {vendor: "10c4", serial: "S%d-*"}, connect: lab}')
        process.send_signal(signal.SIGHUP)
        async with connect_to(AGENT, machine.bus.address) as client:
            taken, longest = await asked_meanwhile(client, lambda: bool(ENDS & _said_last(machine)))
        ended = ENDS & _said_last(machine)
        record_property("seconds", [round(taken, 1), round(longest, 1)])
        assert longest < taken / 2  # it did not wait for the whole
        assert ended == {"configuration loaded"} and f"configuration loaded: {count} rules" in machine.said()
        machine.tree.plug("1-2", ADAPTER)
        assert machine.systemd.until_status("1 ignored") == "1 connected, 1 ignored"


def _said_last(machine: Machine) -> set[str]:
    """How the last line begins."""
    return {line.partition(":")[0] for line in machine.said().splitlines()[-1:]}


@pytest.mark.parametrize("write", ["drivers/usb/unbind 1-1", "drivers/usbip-host/bind 1-1"])
async def test_another_one_in_its_place_in_the_midst_of_the_claim(machine: Machine, write: str) -> None:
    def exchange() -> None:
        machine.kernel.unplug("1-1")
        machine.tree.plug("1-1", ADAPTER)
        machine.tree.drive("1-1", "usb" if "unbind" in write else "")

    machine.kernel.before[write] = exchange
    with machine.running():
        machine.tree.plug("1-1", STICK)
        machine.host.next().accept()
        assert (await machine.until_state("1-1", "ignored")).vendor == ADAPTER.vendor
        machine.kernel.until(lambda: not machine.kernel.table, DEADLINE)
        assert machine.tree.driver("1-1") == "usb" and machine.kernel.linked == set()
