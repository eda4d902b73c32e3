"""What the commands use: reports, calls, changes, and a daemon that is not there."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace

import pytest

from tests.component.bus.private_bus import FakeAgent, PrivateBus, caller, serving
from usbip_agent.bus.client import Added, Changed, RemoteFault, Removed, Returned, Vanished, connect_to
from usbip_agent.bus.operations import ConnectOptions
from usbip_agent.errors import (
    ConfigurationFault, DeadlineFault, ExitStatus, UnavailableFault, UnknownDeviceFault)
from usbip_agent.names import AGENT, USBIPA
from usbip_agent.report import DeviceReport, ImportReport

STICK = DeviceReport("1-1.4", vendor="10c4", classes=("vendor",), state="connected", since=5)
WAITING = DeviceReport("1-1.4", vendor="10c4", classes=("vendor",), state="waiting", since=6, attempts=1)


async def test_reports_come_back_as_they_were_put(bus: PrivateBus) -> None:
    imports = (ImportReport(0, bus_id="1-1", device_nodes=("/dev/sda", "/dev/sda1")),
               ImportReport(15, hub="ss"))
    async with serving(bus, reports=[STICK]), serving(bus, usbipa=True, reports=imports):
        async with connect_to(AGENT, bus.address) as client:
            assert await client.reports() == (STICK,)
        async with connect_to(USBIPA, bus.address) as client:
            assert await client.reports() == imports


async def test_calls_take_plain_values(bus: PrivateBus) -> None:
    agent = FakeAgent()
    async with serving(bus, agent), connect_to(AGENT, bus.address) as client:
        path = await client.call("Connect", "ssa{sv}", "1-1", "lab", {"port": 3241, "vudc": True})
        await client.call("Connect", "ssa{sv}", "1-1", "lab", {"port": None})
        assert await client.call("Reload") is None
        assert await client.explain("1-1") == agent.explain("1-1")
    assert path == "/org/usbip/Agent1/device/_31_2d1"
    assert [asked[3] for asked in agent.asked if asked[0] == "connect"] == [
        ConnectOptions(3241, True), ConnectOptions()]


@pytest.mark.parametrize("fault, status", [
    (UnknownDeviceFault("no device 9-9", hint="usbip-agent list"), ExitStatus.FAILED),
    (ConfigurationFault("agent.yaml:3: unknown key"), ExitStatus.INVALID_CONFIGURATION),
])
async def test_a_fault_keeps_its_name_and_exit_status(bus: PrivateBus, fault: ConfigurationFault,
                                                      status: ExitStatus) -> None:
    async with serving(bus, FakeAgent(fails=fault)), connect_to(AGENT, bus.address) as client:
        with pytest.raises(RemoteFault) as caught:
            await client.call("Reload")
    assert caught.value.dbus_name == fault.dbus_name
    assert caught.value.exit_status == status
    assert str(caught.value) == str(fault)


async def test_permission_denied_is_a_fault_with_its_name(bus: PrivateBus) -> None:
    async with serving(bus, privileged_uid=os.getuid() + 1), connect_to(AGENT, bus.address) as client:
        with pytest.raises(RemoteFault, match="use sudo") as caught:
            await client.call("Reload")
    assert caught.value.dbus_name == "org.usbip.Error.NotPermitted"


async def test_a_daemon_that_does_not_run(bus: PrivateBus) -> None:
    with pytest.raises(UnavailableFault) as caught:
        async with connect_to(AGENT, bus.address):
            pass
    assert str(caught.value) == "usbip-agent is not running (systemctl start usbip-agent)"
    assert caught.value.exit_status == 69


async def test_a_daemon_that_stops_in_between(bus: PrivateBus) -> None:
    async with serving(bus) as server, connect_to(AGENT, bus.address) as client:
        await server.close()
        # Whether the call was still taken is a race that nobody can win.
        with pytest.raises(UnavailableFault, match="not running|stopped without an answer"):
            await client.reports()


async def test_a_call_has_a_deadline(bus: PrivateBus) -> None:
    async def busy() -> None:
        await asyncio.get_running_loop().create_future()

    async with serving(bus, FakeAgent(busy=busy)), connect_to(AGENT, bus.address) as client:
        with pytest.raises(DeadlineFault, match="did not answer Reload in 0.05 s"):
            await client.call("Reload", deadline=0.05)
        assert await client.reports() == ()


async def test_changes(bus: PrivateBus) -> None:
    async with serving(bus, reports=[STICK]) as server, connect_to(AGENT, bus.address) as client:
        changes = client.changes(initial=True)
        assert await anext(changes) == Added(STICK)
        other = DeviceReport("2-1")
        server.publisher.put(WAITING)
        server.publisher.put(other)
        server.publisher.remove("1-1.4")
        assert await anext(changes) == Changed(WAITING, before=STICK)
        assert await anext(changes) == Added(other)
        assert await anext(changes) == Removed(WAITING)
        await changes.aclose()


async def test_changes_go_on_when_the_daemon_comes_back(bus: PrivateBus) -> None:
    """With what has changed meanwhile; also when it first dies at once, without an answer."""
    gone, other = DeviceReport("2-1"), DeviceReport("2-2")
    async with serving(bus, reports=[STICK, gone]) as server, connect_to(AGENT, bus.address) as client:
        changes = client.changes()
        first = asyncio.ensure_future(anext(changes))
        while not first.done():
            server.publisher.put(replace(gone, attempts=1))
            server.publisher.put(gone)
            await asyncio.wait([first], timeout=0.1)
        await server.close()
        while await anext(changes) != Vanished():
            pass
        async with caller(bus) as short_lived:
            await short_lived.call_bus("RequestName", "su", AGENT.bus_name, 0)
        assert await anext(changes) == Vanished()
        async with serving(bus, reports=[WAITING, other]) as another:
            assert [await anext(changes) for _ in range(4)] == [
                Returned(), Removed(gone), Changed(WAITING, before=STICK), Added(other)]
            another.publisher.remove("2-2")
            assert await anext(changes) == Removed(other)
            await changes.aclose()


async def test_changes_are_none_twice_and_none_lost_around_the_snapshot(bus: PrivateBus) -> None:
    """While a client subscribes, the daemon goes on; snapshot and changes together are the whole story."""
    async with serving(bus, reports=[STICK]) as server, connect_to(AGENT, bus.address) as client:
        for moment in range(40):
            bus_id = f"3-{moment + 1}"
            changes = client.changes(initial=True)
            first = asyncio.ensure_future(anext(changes))
            for _ in range(moment):
                await asyncio.sleep(0)
            server.publisher.put(DeviceReport(bus_id))
            seen = [await first]
            while seen[-1] != Added(DeviceReport(bus_id)):
                seen.append(await anext(changes))
            # The earlier ones are there in their order, each once.
            assert seen == [Added(STICK), *(Added(DeviceReport(f"3-{n + 1}")) for n in range(moment + 1))]
            await changes.aclose()


async def test_changes_end_with_the_bus(bus: PrivateBus) -> None:
    async with serving(bus, reports=[STICK]), connect_to(AGENT, bus.address) as client:
        changes = client.changes(initial=True)
        assert await anext(changes) == Added(STICK)
        bus.stop()
        # A bus that ends may still tell that the daemon's name is gone.
        assert [each async for each in changes] in ([], [Vanished()])


async def test_signals_of_others_change_nothing(bus: PrivateBus) -> None:
    async with serving(bus, reports=[STICK]) as server, connect_to(AGENT, bus.address) as client:
        changes = client.changes(initial=True)
        await anext(changes)
        async with connect_to(AGENT, bus.address) as stranger:
            stranger._connection.emit(
                AGENT.manager_path, "org.freedesktop.DBus.ObjectManager", "InterfacesRemoved", "oas",
                ["/org/usbip/Agent1/device/_31_2d1_2e4", [AGENT.child_interface]])
            await stranger.reports()
        server.publisher.put(WAITING)
        assert await anext(changes) == Changed(WAITING, before=STICK)
        await changes.aclose()
