"""A stop gives back what is there then, whatever came and went before."""

from __future__ import annotations

from tests.component.agent.daemon import Machine, end_politely
from tests.component.agent.tree import STICK
from usbip_agent.errors import ExitStatus


def test_stop_after_a_time_without_devices(machine: Machine) -> None:
    with machine.running() as process:
        machine.tree.plug("1-1", STICK)
        machine.connected("1-1")
        machine.kernel.unplug("1-1")
        machine.systemd.until_status("no USB devices here")
        machine.tree.plug("1-1", STICK)
        machine.connected("1-1")
        assert end_politely(machine, process) == ExitStatus.DONE
    assert machine.tree.driver("1-1") == "usb" and machine.kernel.table == []
