"""Calls that do something: who may, what comes of it, and what the caller hears when it fails."""

from __future__ import annotations

import asyncio
import configparser
import os
import sys
from typing import Any

import pytest

from tests.component.bus.private_bus import (
    LIKE_THE_SYSTEM_BUS, REPOSITORY, FakeAgent, PrivateBus, call, caller, private_bus, serving)
from usbip_agent.bus.connection import Connection
from usbip_agent.bus.dispatch import OUTSTANDING_CALLS
from usbip_agent.bus.marshalling import Flag, variant
from usbip_agent.bus.operations import ConnectOptions, DisconnectOptions
from usbip_agent.bus.server import NameHeldFault, serve_agent
from usbip_agent.bus.standard import CallError
from usbip_agent.errors import ConfigurationFault, PermissionFault, UnreachableFault
from usbip_agent.names import AGENT, USBIPA, Service
from usbip_agent.report import DeviceReport

NOBODY = 65534


async def manager(connection: Connection, member: str, signature: str = "", *body: Any,
                  flags: int = 0) -> Any:
    return await call(connection, AGENT.bus_name, AGENT.manager_path, f"{AGENT.manager_interface}.{member}",
                      signature, *body, flags=flags)


async def test_connect_and_disconnect(bus: PrivateBus) -> None:
    agent = FakeAgent()
    async with serving(bus, agent), caller(bus) as connection:
        path = await manager(connection, "Connect", "ssa{sv}", "1-1.4", "lab",
                             {"port": variant("u", 3241), "vudc": variant("b", False)})
        await manager(connection, "Disconnect", "sa{sv}", "usbip-vudc.0", {"vudc": variant("b", True)})
        await manager(connection, "Reload")
    assert path == "/org/usbip/Agent1/device/_31_2d1_2e4"
    assert agent.asked == [
        ("connect", "1-1.4", "lab", ConnectOptions(port=3241)),
        ("disconnect", "usbip-vudc.0", DisconnectOptions(vudc=True)),
        ("reload",)]


async def test_detach(bus: PrivateBus) -> None:
    usbipa = FakeAgent()
    async with serving(bus, usbipa, usbipa=True), caller(bus) as connection:
        detach = f"{USBIPA.manager_interface}.Detach"
        assert await call(connection, USBIPA.bus_name, USBIPA.manager_path, detach, "ua{sv}", 7, {}) == []
        with pytest.raises(CallError, match="unknown option 'force'"):
            await call(connection, USBIPA.bus_name, USBIPA.manager_path, detach, "ua{sv}", 7,
                       {"force": variant("b", True)})
    assert usbipa.asked == [("detach", 7)]


async def test_explain(bus: PrivateBus) -> None:
    async with serving(bus), caller(bus) as connection:
        answer = await manager(connection, "Explain", "s", "1-1")
    assert (answer["Rule"], answer["Verdict"], answer["Hosts"]) == ("stick", "connect", ["lab", "backup"])
    assert answer["Steps"][0] == {
        "Rule": "first", "Location": "agent.yaml:9", "Matched": False, "Why": "busid is 1-1"}


@pytest.mark.parametrize("options, complaint", [
    ({"prot": variant("u", 1)}, "unknown option 'prot' (known: port, vudc)"),
    ({"port": variant("s", "3240")}, "option 'port' is of type 's' (it takes a number, 'u')"),
    ({"port": variant("i", -1)}, "there is no TCP port -1 (1 to 65535)"),
    ({"port": variant("u", 65536)}, "there is no TCP port 65536 (1 to 65535)"),
    ({"vudc": variant("u", 1)}, "option 'vudc' is of type 'u' (it takes a boolean, 'b')"),
])
async def test_options_that_are_not_understood_are_refused(bus: PrivateBus, options: Any,
                                                           complaint: str) -> None:
    agent = FakeAgent()
    async with serving(bus, agent), caller(bus) as connection:
        with pytest.raises(CallError) as caught:
            await manager(connection, "Connect", "ssa{sv}", "1-1", "lab", options)
    assert caught.value.dbus_name == "org.usbip.Error.InvalidArgument"
    assert caught.value.message == complaint
    assert agent.asked == []


@pytest.mark.parametrize("signature", ["u", "q", "i"])
async def test_a_port_may_be_any_number(bus: PrivateBus, signature: str) -> None:
    agent = FakeAgent()
    async with serving(bus, agent), caller(bus) as connection:
        await manager(connection, "Connect", "ssa{sv}", "1-1", "lab", {"port": variant(signature, 3241)})
    assert agent.asked[0][3] == ConnectOptions(port=3241)


async def test_whoever_is_not_root_may_read_and_nothing_else(bus: PrivateBus) -> None:
    agent = FakeAgent()
    async with (serving(bus, agent, privileged_uid=os.getuid() + 1, reports=[DeviceReport("1-1")]),
                caller(bus) as connection):
        for member, signature, body in (("Connect", "ssa{sv}", ("1-1", "lab", {})),
                                        ("Disconnect", "sa{sv}", ("1-1", {})), ("Reload", "", ())):
            with pytest.raises(CallError) as caught:
                await manager(connection, member, signature, *body)
            assert caught.value.dbus_name == "org.usbip.Error.NotPermitted"
            assert caught.value.message == f"only root may call {member} (use sudo)"
        assert (await manager(connection, "Explain", "s", "1-1"))["Rule"] == "stick"
        everything = await call(connection, AGENT.bus_name, AGENT.manager_path,
                                "org.freedesktop.DBus.ObjectManager.GetManagedObjects")
        assert list(everything) == ["/org/usbip/Agent1/device/_31_2d1"]
    assert agent.asked == []


FOREIGN_CALLER = """
import asyncio, sys
from usbip_agent.bus.client import RemoteFault, connect_to
from usbip_agent.names import AGENT

async def main():
    async with connect_to(AGENT, sys.argv[1]) as client:
        print([report.bus_id for report in await client.reports()], (await client.explain("1-1")).rule)
        try:
            await client.call("Reload")
        except RemoteFault as fault:
            print(fault.dbus_name, fault)

asyncio.run(main())
"""


@pytest.mark.skipif(os.getuid() != 0, reason="another user can be played by root only")
@pytest.mark.parametrize("policy", ["permissive", "shipped"])
async def test_another_user_is_known_by_the_bus(policy: str, bus: PrivateBus) -> None:
    shipped = LIKE_THE_SYSTEM_BUS + f"<include>{REPOSITORY}/dbus/org.usbip.Agent1.conf</include>"
    with private_bus(shipped) as like_the_system_bus:
        agent, where = FakeAgent(), bus if policy == "permissive" else like_the_system_bus
        async with serving(where, agent, reports=[DeviceReport("1-1")]):
            process = await asyncio.create_subprocess_exec(
                "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", sys.executable, "-c",
                FOREIGN_CALLER, where.address, cwd=REPOSITORY, stdout=asyncio.subprocess.PIPE)
            said, _ = await process.communicate()
    assert said.decode().splitlines() == [
        "['1-1'] stick", "org.usbip.Error.NotPermitted only root may call Reload (use sudo)"]
    assert agent.asked == []


async def test_a_fault_reaches_the_caller_in_one_line(bus: PrivateBus) -> None:
    agent = FakeAgent(fails=UnreachableFault("lab: connection\nrefused\0", hint="is usbipa running there?"))
    async with serving(bus, agent), caller(bus) as connection:
        with pytest.raises(CallError) as caught:
            await manager(connection, "Connect", "ssa{sv}", "1-1", "lab", {})
    assert caught.value.dbus_name == "org.usbip.Error.Unreachable"
    assert caught.value.message == "lab: connection\\nrefused\\x00 (is usbipa running there?)"


@pytest.mark.parametrize("member, signature, body", [("Reload", "", ()), ("Explain", "s", ("1-1",))])
async def test_a_bug_is_told_to_the_journal_only(bus: PrivateBus, caplog: pytest.LogCaptureFixture,
                                                 member: str, signature: str, body: tuple[str, ...]) -> None:
    agent = FakeAgent(fails=ZeroDivisionError("secret detail"))
    async with serving(bus, agent) as server, caller(bus) as connection:
        with pytest.raises(CallError) as caught:
            await manager(connection, member, signature, *body)
        assert server.connection.alive
    assert caught.value.dbus_name == "org.usbip.Error.Failed"
    assert caught.value.message == "internal error (see: journalctl -u usbip-agent.service)"
    assert "secret detail" in caplog.text


async def test_an_answer_that_cannot_be_sent_is_a_bug_too(bus: PrivateBus) -> None:
    class Wrong(FakeAgent):
        async def connect(self, bus_id: str, host: str, options: ConnectOptions) -> str:
            return None  # type: ignore[return-value]

    async with serving(bus, Wrong()), caller(bus) as connection:
        with pytest.raises(CallError, match="internal error"):
            await manager(connection, "Connect", "ssa{sv}", "1-1", "lab", {})


async def test_a_slow_call_blocks_nobody(bus: PrivateBus) -> None:
    started, finish = asyncio.Event(), asyncio.Event()

    async def busy() -> None:
        started.set()
        await finish.wait()

    async with serving(bus, FakeAgent(busy=busy)), caller(bus) as connection:
        slow = asyncio.create_task(manager(connection, "Connect", "ssa{sv}", "1-1", "lab", {}))
        await started.wait()
        assert (await manager(connection, "Explain", "s", "1-1"))["Rule"] == "stick"
        assert not slow.done()
        finish.set()
        assert await slow == "/org/usbip/Agent1/device/_31_2d1"


async def test_a_caller_has_so_many_calls_outstanding_and_no_more(bus: PrivateBus) -> None:
    all_started, finish = asyncio.Event(), asyncio.Event()

    async def busy() -> None:
        if len(agent.asked) == OUTSTANDING_CALLS:
            all_started.set()
        await finish.wait()

    agent = FakeAgent(busy=busy)
    async with serving(bus, agent), caller(bus) as connection, caller(bus) as other:
        calls = [asyncio.create_task(manager(connection, "Reload")) for _ in range(OUTSTANDING_CALLS)]
        await all_started.wait()
        with pytest.raises(CallError) as caught:
            await manager(connection, "Reload")
        assert caught.value.dbus_name == "org.freedesktop.DBus.Error.LimitsExceeded"
        assert await manager(connection, "Explain", "s", "1-1")
        calls.append(asyncio.create_task(manager(other, "Reload")))
        finish.set()
        await asyncio.gather(*calls)
        await manager(connection, "Reload")


async def test_closing_cancels_what_runs_and_tells_its_caller(bus: PrivateBus) -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def busy() -> None:
        started.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            cancelled.set()

    async with caller(bus) as connection:
        async with serving(bus, FakeAgent(busy=busy)) as server:
            slow = asyncio.create_task(manager(connection, "Reload"))
            await started.wait()
        assert cancelled.is_set()
        await server.lost()
        with pytest.raises(CallError, match="usbip-agent is stopping") as caught:
            await slow
    assert caught.value.dbus_name == "org.usbip.Error.Unavailable"


async def test_who_wants_no_reply_gets_none(bus: PrivateBus) -> None:
    reloaded = asyncio.Event()

    async def busy() -> None:
        reloaded.set()

    agent = FakeAgent(busy=busy, fails=ConfigurationFault("agent.yaml:3: no"))
    async with serving(bus, agent), caller(bus) as connection:
        silent = asyncio.create_task(manager(connection, "Reload", flags=Flag.NO_REPLY_EXPECTED))
        await reloaded.wait()
        await call(connection, AGENT.bus_name, AGENT.manager_path, "org.freedesktop.DBus.Peer.Ping")
        assert not silent.done()
        silent.cancel()
        await asyncio.gather(silent, return_exceptions=True)


async def test_a_name_that_is_held(bus: PrivateBus) -> None:
    async with serving(bus) as server:
        with pytest.raises(NameHeldFault) as caught:
            await serve_agent(FakeAgent(), address=bus.address)
        assert caught.value.what == (f"the D-Bus name org.usbip.Agent1 is held by process {os.getpid()} "
                                     f"({server.connection.unique_name})")
        assert "systemctl status usbip-agent" in caught.value.hint
    async with serving(bus):
        pass


async def test_a_name_that_may_not_be_had() -> None:
    with private_bus(LIKE_THE_SYSTEM_BUS) as bus:
        with pytest.raises(PermissionFault, match="org.usbip.Agent1"):
            await serve_agent(FakeAgent(), address=bus.address)


@pytest.mark.parametrize("name", ["org.usbip.Agent1", "org.usbip.Usbipa1"])
async def test_the_bus_takes_the_shipped_policy(name: str) -> None:
    with private_bus(LIKE_THE_SYSTEM_BUS + f"<include>{REPOSITORY}/dbus/{name}.conf</include>") as bus:
        if os.getuid() == 0:
            async with serving(bus, usbipa="Usbipa" in name):
                pass
        else:
            with pytest.raises(PermissionFault):
                async with serving(bus, usbipa="Usbipa" in name):
                    pass
        # As nobody it may not raise its limit of files; and it is the package that makes the user.
        expected = ("fd limit", 'Unknown username "usbipa"')
        said = bus.stop().splitlines()
        assert [line for line in said if not any(each in line for each in expected)] == []


@pytest.mark.parametrize("service", [AGENT, USBIPA], ids=["agent", "usbipa"])
def test_activation_goes_through_systemd(service: Service) -> None:
    activation = configparser.ConfigParser()
    activation.read(REPOSITORY / "dbus" / f"{service.bus_name}.service")
    assert dict(activation["D-BUS Service"]) == {
        "name": service.bus_name, "exec": "/bin/false", "user": "root", "systemdservice": service.unit}
