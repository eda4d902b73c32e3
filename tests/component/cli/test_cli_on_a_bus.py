"""The commands as processes, talking to fake daemons on a private bus."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest
from tests.component.bus.private_bus import FakeAgent, PrivateBus, serving
from usbip_agent.bus.operations import ConnectOptions, DisconnectOptions
from usbip_agent.errors import BusyFault, PermissionFault, UnknownDeviceFault, UnreachableFault
from usbip_agent.report import DeviceReport, ExportState, ImportReport, ImportState

ROOT = Path(__file__).parents[3]
DEADLINE = 20.0

STICK = DeviceReport(
    "1-1.4", vendor="10c4", product="ea60", serial="01A7", manufacturer="Silicon Labs", model="CP2102",
    classes=("vendor",), path="pci-0000:00:14.0-usb-0:1.4", speed="full", kind="usb", rule="zigbee stick",
    state=ExportState.CONNECTED, host="lab", transport="plain", peer="10.9.0.1:3240",
    since=1_800_000_000_000_000)
DISK = ImportReport(
    port=3, hub="hs", node="", peer="10.9.0.7:40000", bus_id="1-2", vendor="0781", product="5567",
    model="Cruzer", speed="high", local_bus_id="4-1", device_nodes=("/dev/sda", "/dev/sda1"), rule="cellar",
    transport="plain", state=ImportState.ATTACHED, since=1_800_000_000_000_000)


@dataclass(frozen=True)
class Outcome:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


async def start(bus: PrivateBus, command: str, *words: str) -> asyncio.subprocess.Process:
    module = {"usbip-agent": "agent", "usbipa": "usbipa"}[command]
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", f"usbip_agent.cli.{module}", *words, cwd=ROOT,
        env={**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": bus.address},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)


async def end(process: asyncio.subprocess.Process) -> Outcome:
    out, err = await asyncio.wait_for(process.communicate(), DEADLINE)
    assert process.returncode is not None
    return Outcome(process.returncode, out.decode(), err.decode())


async def run(bus: PrivateBus, command: str, *words: str) -> Outcome:
    return await end(await start(bus, command, *words))


async def line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    return (await asyncio.wait_for(process.stdout.readline(), DEADLINE)).decode().rstrip("\n")


async def until_listened_to(bus: PrivateBus, process: asyncio.subprocess.Process, agent: Any) -> str:
    """Changes one device again and again until *process* shows a change; its line."""
    task = asyncio.create_task(line(process))
    attempts = 0
    while not task.done():
        attempts += 1
        agent.publisher.put(DeviceReport("9-9", attempts=attempts))
        await asyncio.wait([task], timeout=0.1)
    return await task


async def test_status_of_devices(bus: PrivateBus) -> None:
    waiting = DeviceReport("1-3", vendor="dead", product="beef", model="\x1b[2J", state=ExportState.WAITING,
                           reason="connection refused", host="lab", attempts=2, next_attempt=1)
    async with serving(bus, reports=[STICK, waiting]):
        said = await run(bus, "usbip-agent", "status", "--json")
        shown = await run(bus, "usbip-agent")
    assert set(said.json) == {"version", "devices"} and said.json["version"] == 1
    stick = said.json["devices"][0]
    assert list(stick) == [field.name for field in fields(DeviceReport)]
    assert stick["since"] == STICK.since and stick["classes"] == ["vendor"] and stick["state"] == "connected"
    lines = shown.out.splitlines()
    assert lines[0].split() == ["BUSID", "DEVICE", "STATE", "HOST", "SINCE"]
    assert "10c4:ea60 Silicon Labs CP2102  connected  lab" in lines[1]
    assert "      connection refused" in lines and "      attempt 3 in 0 s" in lines
    assert "\x1b" not in shown.out


@pytest.mark.parametrize("verb", ["status", "port"])
async def test_status_of_imports(bus: PrivateBus, verb: str) -> None:
    async with serving(bus, usbipa=True, reports=[DISK]):
        said = await run(bus, "usbipa", verb, "--json")
        shown = await run(bus, "usbipa", verb)
    assert set(said.json) == {"version", "imports"}
    assert list(said.json["imports"][0]) == [field.name for field in fields(ImportReport)]
    assert said.json["imports"][0]["device_nodes"] == ["/dev/sda", "/dev/sda1"]
    assert shown.out.splitlines()[1].endswith("/dev/sda /dev/sda1")


async def test_status_says_when_the_module_is_missing(bus: PrivateBus) -> None:
    """No build machine has it, so that it always is."""
    if Path("/sys/bus/usb/drivers/usbip-host").exists():
        pytest.skip("the module is loaded here")
    async with serving(bus, reports=[STICK]):
        said = await run(bus, "usbip-agent", "status", "--json")
    assert said.status == 69 and len(said.json["devices"]) == 1
    assert said.err.startswith("usbip-agent: the kernel module usbip-host is not loaded: ")
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(("command", "verb"), [
    ("usbip-agent", "status"), ("usbip-agent", "monitor"), ("usbip-agent", "connect -b 1-1 -r lab"),
    ("usbip-agent", "disconnect -b 1-1"), ("usbipa", "status"), ("usbipa", "monitor"),
    ("usbipa", "detach 1")])
async def test_without_the_daemon(bus: PrivateBus, command: str, verb: str) -> None:
    said = await run(bus, command, *verb.split())
    assert (said.status, said.out) == (69, "")
    assert said.err.startswith(f"{command}: {command} is not running") and said.err.count("\n") == 1


async def test_connect(bus: PrivateBus) -> None:
    agent = FakeAgent()
    async with serving(bus, agent, reports=[STICK]):
        said = await run(bus, "usbip-agent", "connect", "-b", "1-1.4", "-r", "lab", "-t", "3241")
    assert (said.status, said.err) == (0, "")
    assert said.out == "1-1.4: connected to lab (10.9.0.1:3240, plain)\n"
    assert agent.asked == [("connect", "1-1.4", "lab", ConnectOptions(port=3241))]


@pytest.mark.parametrize("words", [["-d"], [], ["--device"]])
async def test_connect_a_vudc(bus: PrivateBus, words: list[str]) -> None:
    agent = FakeAgent()
    vudc = DeviceReport("usbip-vudc.0", state=ExportState.CONNECTED, host="lab")
    async with serving(bus, agent, reports=[vudc]):
        said = await run(bus, "usbip-agent", "connect", "--busid", "usbip-vudc.0", "--remote", "lab", *words)
    assert said.status == 0
    assert agent.asked == [("connect", "usbip-vudc.0", "lab", ConnectOptions(vudc=True))]


@pytest.mark.parametrize("fault", [
    UnreachableFault("lab: connection refused", hint="start usbipa there"),
    UnknownDeviceFault("no device 1-1.4"),
    BusyFault("in use"), PermissionFault("only root may call Connect", hint="use sudo"), ValueError("a bug")])
async def test_connect_fails_in_one_line(bus: PrivateBus, fault: Exception) -> None:
    async with serving(bus, FakeAgent(fails=fault), reports=[STICK]):
        said = await run(bus, "usbip-agent", "connect", "-b", "1-1.4", "-r", "lab")
    assert (said.status, said.out) == (1, "")
    assert said.err.startswith("usbip-agent: ") and said.err.count("\n") == 1
    assert isinstance(fault, ValueError) or fault.args[0] in said.err


async def test_connect_that_has_to_wait_is_no_success(bus: PrivateBus) -> None:
    waiting = DeviceReport("1-1.4", state=ExportState.WAITING, reason="no free port", host="lab")
    async with serving(bus, reports=[waiting]):
        said = await run(bus, "usbip-agent", "connect", "-b", "1-1.4", "-r", "lab")
    assert said.status == 1 and said.err == "usbip-agent: 1-1.4 is waiting: no free port\n"


async def test_connect_can_be_interrupted(bus: PrivateBus) -> None:
    asked, never = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        asked.set()
        await never.wait()

    async with serving(bus, FakeAgent(busy=hang), reports=[STICK]):
        process = await start(bus, "usbip-agent", "connect", "-b", "1-1.4", "-r", "lab")
        await asyncio.wait_for(asked.wait(), DEADLINE)
        process.send_signal(signal.SIGINT)
        said = await end(process)
    assert (said.status, said.out, said.err) == (130, "", "")


async def test_connect_is_for_root(bus: PrivateBus) -> None:
    async with serving(bus, privileged_uid=os.getuid() + 1, reports=[STICK]):
        said = await run(bus, "usbip-agent", "connect", "-b", "1-1.4", "-r", "lab")
    assert said.status == 1 and "only root may call Connect" in said.err


async def test_disconnect(bus: PrivateBus) -> None:
    agent = FakeAgent()
    held = DeviceReport("1-1.4", state=ExportState.HELD)
    async with serving(bus, agent, reports=[held]):
        said = await run(bus, "usbip-agent", "disconnect", "-b", "1-1.4")
    assert (said.status, said.out) == (0, "1-1.4: disconnected, and held until connect or a replug\n")
    assert agent.asked == [("disconnect", "1-1.4", DisconnectOptions())]


async def test_detach(bus: PrivateBus) -> None:
    usbipa = FakeAgent()
    async with serving(bus, usbipa, usbipa=True):
        said = await run(bus, "usbipa", "detach", "3")
        usbipa.fails = UnknownDeviceFault("port 77 has no import")
        unknown = await run(bus, "usbipa", "detach", "77")
    assert (said.status, said.out) == (0, "port 3: detached\n")
    assert (unknown.status, unknown.err) == (1, "usbipa: port 77 has no import\n")
    assert usbipa.asked == [("detach", 3), ("detach", 77)]


async def test_monitor(bus: PrivateBus) -> None:
    async with serving(bus, reports=[STICK]) as server:
        process = await start(bus, "usbip-agent", "monitor", "--json")
        first = json.loads(await until_listened_to(bus, process, server))
        assert (first["version"], first["device"]["bus_id"]) == (1, "9-9")
        server.publisher.put(DeviceReport("1-1.4", state=ExportState.HELD))
        while (change := json.loads(await line(process)))["device"]["bus_id"] == "9-9":
            pass
        assert (change["change"], change["device"]["state"]) == ("changed", "held")
        server.publisher.remove("1-1.4")
        assert json.loads(await line(process))["change"] == "removed"
        process.send_signal(signal.SIGINT)
        said = await end(process)
    assert (said.status, said.out, said.err) == (130, "", "")


async def test_monitor_outlives_the_daemon(bus: PrivateBus) -> None:
    async with serving(bus, reports=[STICK]) as server:
        process = await start(bus, "usbip-agent", "monitor")
        assert "9-9" in await until_listened_to(bus, process, server)
    assert process.stderr is not None
    gone = await asyncio.wait_for(process.stderr.readline(), DEADLINE)
    assert gone == b"usbip-agent: usbip-agent has stopped, waiting for it to come back\n"
    async with serving(bus, reports=[replace(STICK, state=ExportState.HELD)]):
        while "removed" not in (removed := await line(process)):
            pass
        assert "9-9" in removed and "connected → held" in await line(process)
        process.send_signal(signal.SIGINT)
        said = await end(process)
    assert (said.status, said.out, said.err) == (130, "", "usbip-agent: usbip-agent is back\n")


async def test_monitor_ends_with_the_bus(bus: PrivateBus) -> None:
    async with serving(bus) as server:
        process = await start(bus, "usbip-agent", "monitor")
        await until_listened_to(bus, process, server)
        bus.stop()
    said = await end(process)
    assert said.status == 69
    assert said.err.endswith("usbip-agent: the connection to the system bus is lost: systemctl status dbus\n")


async def test_monitor_ends_with_its_reader(bus: PrivateBus) -> None:
    async with serving(bus) as server:
        process = await start(bus, "usbip-agent", "monitor")
        await until_listened_to(bus, process, server)
        process._transport.get_pipe_transport(1).close()  # type: ignore[attr-defined]
        over = asyncio.create_task(process.wait())
        while not over.done():
            server.publisher.put(DeviceReport("9-9", attempts=1_000_000 + id(object()) % 1000))
            server.publisher.remove("9-9")
            await asyncio.wait([over], timeout=0.1)
        assert process.stderr is not None and await process.stderr.read() == b""


async def test_doctor_asks_the_daemon(bus: PrivateBus) -> None:
    failed = DeviceReport("1-3", state=ExportState.FAILED, reason="it no longer answers")
    async with serving(bus, reports=[STICK, failed]):
        said = await run(bus, "usbip-agent", "doctor", "--json")
    checks = {check["name"]: check for check in said.json["checks"]}
    assert checks["service"]["outcome"] == "ok"
    assert checks["device 1-3"]["what"] == "failed: it no longer answers"
