"""What people tell a running agent: disconnect, connect, reload."""

from __future__ import annotations

import asyncio
import signal

import pytest

from tests.component.agent.daemon import STICKS, Machine
from tests.component.agent.fake_host import DEADLINE
from tests.component.agent.tree import ADAPTER, STICK
from usbip_agent import wire
from usbip_agent.bus.client import Client, RemoteFault, connect_to
from usbip_agent.names import AGENT


async def goodbye(machine: Machine, client: Client, bus_id: str) -> None:
    """``Disconnect``, with a host that answers."""
    call = asyncio.create_task(client.call("Disconnect", "sa{sv}", bus_id, {}))
    visit = await asyncio.to_thread(machine.host.next, wire.Operation.UNEXPORT)
    assert visit.bus_id == bus_id
    visit.accept()
    await call


async def test_disconnect_and_connect(machine: Machine) -> None:
    machine.tree.plug("1-1", STICK, announced=False)
    with machine.running():
        machine.connected("1-1")
        async with connect_to(AGENT, machine.bus.address) as client:
            await goodbye(machine, client, "1-1")
            assert machine.tree.driver("1-1") == "usb" and machine.kernel.table == []
            machine.systemd.until_status("1 held")
            assert 'KERNELS=="1-1"' in machine.rules  # it is a local device again, for automounters too
            machine.tree.tell(machine.tree.bus / "devices/1-1", "add")
            assert machine.host.nobody_comes(0.3)
            call = asyncio.create_task(client.call("Connect", "ssa{sv}", "1-1", "lab", {}))
            (await asyncio.to_thread(machine.host.next)).accept()
            assert await call == "/org/usbip/Agent1/device/_31_2d1"
        report = await machine.until_state("1-1", "connected")
        assert report.rule == "by hand"
        machine.systemd.until_status("1 connected")


async def test_a_replug_ends_the_hold(machine: Machine) -> None:
    machine.tree.plug("1-1", STICK, announced=False)
    with machine.running():
        machine.connected("1-1")
        async with connect_to(AGENT, machine.bus.address) as client:
            await goodbye(machine, client, "1-1")
        machine.systemd.until_status("1 held")
        machine.kernel.unplug("1-1")
        machine.tree.plug("1-1", STICK)
        machine.connected("1-1")


async def test_disconnect_from_a_host_that_is_silent(machine: Machine) -> None:
    machine.tree.plug("1-1", STICK, announced=False)
    with machine.running(FAKE_DEADLINE="2"):
        machine.connected("1-1")
        async with connect_to(AGENT, machine.bus.address) as client:
            await client.call("Disconnect", "sa{sv}", "1-1", {})
        assert machine.tree.driver("1-1") == "usb"
        machine.host.next(wire.Operation.UNEXPORT)


@pytest.mark.parametrize(("method", "arguments", "name"), [
    ("Connect", ("ssa{sv}", "9-9", "lab", {}), "UnknownDevice"),
    ("Connect", ("ssa{sv}", "1-1", "elsewhere", {}), "InvalidArgument"),
    ("Connect", ("ssa{sv}", "../etc", "lab", {}), "InvalidArgument"),
    ("Disconnect", ("sa{sv}", "9-9", {}), "UnknownDevice"),
])
async def test_what_cannot_be_done(
        machine: Machine, method: str, arguments: tuple[object, ...], name: str) -> None:
    machine.tree.plug("1-1", ADAPTER, announced=False)
    with machine.running():
        async with connect_to(AGENT, machine.bus.address) as client:
            with pytest.raises(RemoteFault) as caught:
                await client.call(method, str(arguments[0]), *arguments[1:])
            assert caught.value.dbus_name == f"org.usbip.Error.{name}"
        assert machine.systemd.until_status("ignored") == "1 ignored"


async def test_a_bad_reload_changes_nothing(machine: Machine) -> None:
    machine.tree.plug("1-1", STICK, announced=False)
    machine.tree.plug("1-2", ADAPTER, announced=False)
    with machine.running() as process:
        machine.connected("1-1")
        before = machine.rules
        machine.configure(machine.configuration.read_text().replace("vendor", "vendro"))
        async with connect_to(AGENT, machine.bus.address) as client:
            with pytest.raises(RemoteFault) as caught:
                await client.call("Reload")
        assert caught.value.dbus_name == "org.usbip.Error.InvalidConfiguration"
        assert "agent.yaml:4" in str(caught.value)
        process.send_signal(signal.SIGHUP)
        assert "MONOTONIC_USEC" in machine.systemd.until("RELOADING")
        machine.systemd.until("READY")
        assert machine.kernel.linked == {"1-1"} and machine.rules == before
        assert machine.systemd.status == "1 connected, 1 ignored"
        assert "nothing was changed: " in machine.said()


async def test_a_good_reload(machine: Machine) -> None:
    machine.tree.plug("1-1", STICK, announced=False)
    machine.tree.plug("1-2", ADAPTER, announced=False)
    with machine.running() as process:
        machine.connected("1-1")
        machine.configure((STICKS % machine.host.port).replace("0781", "10c4"))
        process.send_signal(signal.SIGHUP)
        visits = [machine.host.accept_any() for _ in range(2)]
        assert {(visit.bus_id, visit.request.operation.name) for visit in visits} == {
            ("1-1", "UNEXPORT"), ("1-2", "EXPORT")}
        machine.kernel.until_linked({"1-2"}, DEADLINE)
        machine.kernel.until(lambda: machine.tree.driver("1-1") == "usb", DEADLINE)
        machine.systemd.until_status("1 connected, 1 ignored")
        assert 'ATTR{idVendor}=="10c4"' in machine.rules
