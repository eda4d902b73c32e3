"""A full disk, a runtime directory that is gone, a huge policy: devices come and go all the same."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.component.hostile import HANGS, UNKNOWN, asked_meanwhile, fill_the_disk, write_huge_rules
from tests.component.usbipa.daemon import ACCEPT_ALL, DEADLINE, Machine, end, some_device
from usbip_agent.bus.client import connect_to
from usbip_agent.errors import ExitStatus
from usbip_agent.names import USBIPA


def records(machine: Machine) -> Path:
    return machine.directory / "run/imports"


def fill(machine: Machine, *ports: int) -> None:
    fill_the_disk(records(machine), *map(str, ports))


def test_a_full_disk(machine: Machine) -> None:
    fill(machine, 0, 1)
    with machine.running() as process:
        first = machine.export(some_device("1-1", 2))
        machine.export(some_device("1-2", 3))
        machine.kernel.until_ports({0, 1}, DEADLINE)
        machine.systemd.until_status("2 imported")
        assert list(records(machine).iterdir()) == []
        first.close()
        machine.kernel.until_ports({1}, DEADLINE)
        machine.systemd.until_status("1 imported")
        machine.export(some_device("1-1", 4))  # now there is room
        machine.kernel.until_ports({0, 1}, DEADLINE)
        assert [path.name for path in records(machine).iterdir()] == ["0.json"]
        assert machine.unexport(some_device("1-2", 3)) == 0
        said = end(process)
        assert process.returncode == ExitStatus.DONE
    assert machine.kernel.ports == set() and list(records(machine).iterdir()) == []
    assert [line for line in said.splitlines() if UNKNOWN in line] == [
        f"0: {UNKNOWN}, as nothing can be written to {records(machine)}: No space left on device"]
    assert "Traceback" not in said


def test_what_a_full_disk_has_not_kept_is_ended_and_can_come_again(machine: Machine) -> None:
    fill(machine, 0)
    with machine.running() as process:
        link = machine.export()
        machine.systemd.until_stored("import-0")
        end(process, signal.SIGKILL)
    with machine.running():
        assert link.recv(1) == b""
        machine.kernel.until_ports(set(), DEADLINE)
        machine.export()
        machine.kernel.until_ports({0}, DEADLINE)


def test_no_runtime_directory_to_be_had(machine: Machine) -> None:
    (machine.directory / "run").write_text("")
    (machine.directory / "state").write_text("")
    with machine.running() as process:
        links = [machine.export(some_device("1-1", 2)), machine.export(some_device("1-2", 3))]
        machine.kernel.until_ports({0, 1}, DEADLINE)
        links[0].close()
        machine.kernel.until_ports({1}, DEADLINE)
        said = end(process)
        assert process.returncode == ExitStatus.DONE
    assert machine.kernel.ports == set()
    assert said.count(UNKNOWN) == 1 and "cannot be used, a restart will not know of imports" in said
    assert "Traceback" not in said


def test_the_runtime_directory_goes(machine: Machine) -> None:
    assert not (machine.directory / "run").exists()
    with machine.running() as process:
        machine.export(some_device("1-1", 2))
        machine.kernel.until_ports({0}, DEADLINE)
        shutil.rmtree(machine.directory / "run")
        machine.export(some_device("1-2", 3))
        machine.kernel.until_ports({0, 1}, DEADLINE)
        assert [path.name for path in records(machine).iterdir()] == ["1.json"]
        second = machine.start()
        _out, refused = second.communicate(timeout=DEADLINE)
        assert second.returncode == ExitStatus.UNAVAILABLE and "Traceback" not in refused
        assert machine.kernel.ports == {0, 1}
        said = end(process)
        assert process.returncode == ExitStatus.DONE
    assert machine.kernel.ports == set() and UNKNOWN not in said and "Traceback" not in said


async def test_a_huge_policy(machine: Machine, monkeypatch: pytest.MonkeyPatch,
                             record_property: Callable[[str, object], None]) -> None:
    """It goes on with its work while it reads it."""
    monkeypatch.setattr("usbip_agent.bus.client.CALL_DEADLINE", HANGS)
    with machine.running() as process:
        machine.configuration.write_text(ACCEPT_ALL % machine.port + "rules:\n")
        write_huge_rules(
            machine.configuration, '{name: r%d, match: {vendor: "0781", serial: "S%d-*"}, accept: true}')
        before = machine.systemd.ready

        def has_reloaded() -> bool:
            machine.systemd.hear(0.001)
            return machine.systemd.ready != before

        async with connect_to(USBIPA, machine.bus.address) as client:
            process.send_signal(signal.SIGHUP)
            taken, longest = await asked_meanwhile(client, has_reloaded)
        record_property("seconds", [round(taken, 1), round(longest, 1)])
        assert longest < taken / 2  # it did not wait for the whole
        machine.export()
        machine.kernel.until_ports({0}, DEADLINE)
        assert "\nreloaded\n" in end(process)
