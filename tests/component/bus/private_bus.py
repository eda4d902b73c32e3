"""A dbus-daemon of one's own, and fake daemons on it."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from usbip_agent.bus.connection import Connection, open_connection
from usbip_agent.bus.marshalling import Kind, Message, plain
from usbip_agent.bus.operations import ConnectOptions, DisconnectOptions, Explanation, ExplanationStep
from usbip_agent.bus.server import BusServer, serve_agent, serve_usbipa

REPOSITORY = Path(__file__).parents[3]

PERMISSIVE = """<policy context="default">
  <allow user="*"/> <allow own="*"/>
  <allow send_destination="*" eavesdrop="true"/> <allow receive_sender="*"/>
</policy>"""

# What /usr/share/dbus-1/system.conf has, without its units and activation.
LIKE_THE_SYSTEM_BUS = """<policy context="default">
  <allow user="*"/> <deny own="*"/> <deny send_type="method_call"/> <allow send_type="signal"/>
  <allow send_requested_reply="true" send_type="method_return"/>
  <allow send_requested_reply="true" send_type="error"/>
  <allow receive_type="method_call"/> <allow receive_type="method_return"/>
  <allow receive_type="error"/> <allow receive_type="signal"/>
  <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus"/>
</policy>"""


@dataclass
class PrivateBus:
    address: str
    process: subprocess.Popen[str]

    def stop(self) -> str:
        """End it; what it said to stderr."""
        self.process.terminate()
        return self.process.communicate()[1]


@contextmanager
def private_bus(policy: str) -> Iterator[PrivateBus]:
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as configuration:
        configuration.write(
            '<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"\n'
            ' "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">\n'
            f"<busconfig><listen>unix:tmpdir=/tmp</listen><auth>EXTERNAL</auth>{policy}</busconfig>")
        configuration.flush()
        process = subprocess.Popen(
            ["dbus-daemon", f"--config-file={configuration.name}", "--nofork", "--nopidfile", "--nosyslog",
             "--print-address=1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None
        bus = PrivateBus(process.stdout.readline().strip(), process)
        try:
            assert bus.address, process.communicate()[1]
            yield bus
        finally:
            if process.returncode is None:
                bus.stop()


@dataclass
class FakeAgent:
    """Notes what it is asked. *fails* is raised, *busy* is awaited."""

    asked: list[tuple[Any, ...]] = field(default_factory=list)
    fails: Exception | None = None
    busy: Any = None

    async def connect(self, bus_id: str, host: str, options: ConnectOptions) -> str:
        self.asked.append(("connect", bus_id, host, options))
        await self._work()
        return bus_id

    async def disconnect(self, bus_id: str, options: DisconnectOptions) -> None:
        self.asked.append(("disconnect", bus_id, options))
        await self._work()

    async def reload(self) -> None:
        self.asked.append(("reload",))
        await self._work()

    def explain(self, bus_id: str) -> Explanation:
        if self.fails is not None:
            raise self.fails
        return Explanation("stick", "connect", ("lab", "backup"), (
            ExplanationStep("first", "agent.yaml:9", False, f"busid is {bus_id}"),
            ExplanationStep("stick", "agent.yaml:12", True, "vendor 10c4")))

    async def detach(self, port: int) -> None:
        self.asked.append(("detach", port))
        await self._work()

    async def _work(self) -> None:
        if self.busy is not None:
            await self.busy()
        if self.fails is not None:
            raise self.fails


@asynccontextmanager
async def serving(bus: PrivateBus, operations: FakeAgent | None = None, *, usbipa: bool = False,
                  **arguments: Any) -> AsyncIterator[BusServer]:
    """A fake daemon on *bus*. The user who runs the tests plays root."""
    operations = operations or FakeAgent()
    arguments = {"address": bus.address, "privileged_uid": os.getuid(), **arguments}
    server = await (serve_usbipa(operations, **arguments) if usbipa else serve_agent(operations, **arguments))
    try:
        yield server
    finally:
        await server.close()


@asynccontextmanager
async def caller(bus: PrivateBus) -> AsyncIterator[Connection]:
    """A bare connection, to call with what no client of ours would send."""
    connection = await open_connection(bus.address)
    try:
        yield connection
    finally:
        await connection.close()


async def call(connection: Connection, destination: str, path: str, member: str, signature: str = "",
               *body: Any, flags: int = 0) -> Any:
    """Call ``interface.Member``; the plain answer (a list where there are several values)."""
    interface, _, name = member.rpartition(".")
    reply, _ = await connection.exchange(Message(
        Kind.CALL, destination=destination, path=path, interface=interface, member=name,
        signature=signature, body=list(body), flags=flags))
    return plain(reply.body[0]) if len(reply.body) == 1 else plain(reply.body)
