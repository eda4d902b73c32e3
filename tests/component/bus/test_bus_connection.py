"""The connection itself: what strangers send to it, and what the bus does to it."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.component.bus.private_bus import PrivateBus, call, caller, private_bus, serving
from usbip_agent.bus.connection import INCOMING_LIMIT, Connection, open_connection
from usbip_agent.bus.marshalling import Kind, Message, encode
from usbip_agent.bus.standard import CallError
from usbip_agent.errors import Fault, PermissionFault, UnavailableFault
from usbip_agent.names import AGENT

PING = "org.freedesktop.DBus.Peer.Ping"


async def ping(connection: Connection) -> None:
    assert await call(connection, AGENT.bus_name, AGENT.manager_path, PING) == []


def with_unknown_header_field(message: bytes) -> bytes:
    """*message* (little endian) with header field 42, which a reader must ignore, in front of the others."""
    body, serial, fields = struct.unpack_from("<III", message, 4)
    extra = b"\x2a\x01u\0" + struct.pack("<I", 7)
    return message[:12] + struct.pack("<I", fields + len(extra)) + extra + message[16:]


async def test_a_message_of_a_later_protocol_hurts_nobody(bus: PrivateBus) -> None:
    """dbus-daemon takes the field out; the unit tests show what becomes of one that arrives."""
    async with serving(bus) as server, caller(bus) as stranger:
        assert stranger._transport is not None
        signal = encode(Message(Kind.SIGNAL, path="/x", interface="org.example.X", member="X", serial=1000,
                                destination=server.connection.unique_name))
        stranger._transport.write(with_unknown_header_field(signal))
        # Messages of one sender arrive in their order: after the answer, the other one was taken as well.
        await ping(stranger)
        assert server.connection.alive


async def test_signals_and_replies_of_strangers_are_nothing_to_us(bus: PrivateBus) -> None:
    async with serving(bus) as server, caller(bus) as stranger:
        server_name = server.connection.unique_name
        for number in range(1, 50):
            stranger._send(Message(Kind.SIGNAL, path="/x", interface="org.example.X", member="X",
                                   destination=server_name))
            stranger._send(Message(Kind.RETURN, reply_serial=number, destination=server_name,
                                   signature="u", body=[0]))
        await ping(stranger)


async def test_a_message_that_is_far_too_long_is_passed_over(bus: PrivateBus) -> None:
    async with serving(bus) as server, caller(bus) as stranger:
        stranger._send(Message(Kind.CALL, destination=AGENT.bus_name, path="/", member="Introspect",
                               signature="ay", body=[bytes(4 * INCOMING_LIMIT)]))
        await ping(stranger)
        assert server.connection.alive


async def test_many_objects_are_one_answer(bus: PrivateBus) -> None:
    from usbip_agent.bus.client import connect_to
    from usbip_agent.report import DeviceReport
    reports = [DeviceReport(f"1-{number}", serial="\0" * 126, model="\0" * 126) for number in range(500)]
    async with serving(bus, reports=reports), connect_to(AGENT, bus.address) as client:
        assert len(await client.reports()) == 500


async def test_the_end_of_the_bus_is_noticed(bus: PrivateBus) -> None:
    async with serving(bus) as server, caller(bus) as connection:
        bus.stop()
        await server.lost()
        server.publisher.remove("1-1")
        with pytest.raises(UnavailableFault, match="connection to the system bus is lost"):
            await connection.lost()
            await ping(connection)


async def test_a_bus_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UnavailableFault, match="there is no system bus"):
        await open_connection(f"unix:path={tmp_path}/none")
    with pytest.raises(UnavailableFault, match="no unix socket"):
        await open_connection("tcp:host=localhost,port=1")


async def test_an_address_may_list_several(bus: PrivateBus, tmp_path: Path,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/none;{bus.address}")
    connection = await open_connection()
    assert connection.unique_name.startswith(":")
    await connection.close()
    await connection.close()


async def test_a_bus_that_does_not_let_us_in() -> None:
    with private_bus('<policy context="default"><deny user="*"/></policy>') as bus:
        with pytest.raises(Fault) as caught:
            await open_connection(bus.address)
    assert isinstance(caught.value, PermissionFault | UnavailableFault)


@asynccontextmanager
async def false_bus(path: Path, answer: bytes) -> AsyncIterator[str]:
    """Something at *path* that says *answer* and hangs up."""
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_unix_server(serve, path)
    try:
        yield f"unix:path={path}"
    finally:
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize("answer, fault", [
    (b"", UnavailableFault),
    (b"OK", UnavailableFault),
    (b"REJECTED EXTERNAL\r\n", PermissionFault),
    (b"x" * 5000, UnavailableFault),
    (b"OK 1234deadbeef\r\n" + b"this is no D-Bus", UnavailableFault),
])
async def test_a_bus_that_breaks_off(tmp_path: Path, answer: bytes, fault: type[Fault]) -> None:
    async with false_bus(tmp_path / "bus", answer) as address:
        with pytest.raises(fault):
            await open_connection(address)


async def test_a_caller_that_is_gone_is_not_root(bus: PrivateBus) -> None:
    async with serving(bus, privileged_uid=os.getuid()) as server:
        with pytest.raises(CallError):
            await server.connection.call_bus("GetConnectionUnixUser", "s", ":1.999")
