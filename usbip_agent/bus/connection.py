"""One connection to the message bus: calls out, calls in, signals both ways. No objects, no policy."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final
from urllib.parse import unquote

from usbip_agent.bus.marshalling import Flag, Framer, Kind, Message, encode
from usbip_agent.bus.standard import BUS, BUS_PATH, CallError
from usbip_agent.errors import DeadlineFault, PermissionFault, UnavailableFault

log = logging.getLogger(__name__)

SYSTEM_BUS: Final = "unix:path=/run/dbus/system_bus_socket"

OPEN_DEADLINE: Final = 10.0
CALL_DEADLINE: Final = 10.0
CLOSE_DEADLINE: Final = 2.0
"""Seconds."""

_LOOK_AT_BUS: Final = "systemctl status dbus"

INCOMING_LIMIT: Final = 256 * 1024
"""Bytes of a message to a daemon. Callers send names and numbers; the bus itself lets 32 MiB through."""


class Connection(asyncio.Protocol):
    """Made by ``open_connection``. All methods belong to the loop's thread."""

    def __init__(self, incoming_limit: int) -> None:
        self.unique_name = ""
        self.on_call: Callable[[Message], None] | None = None
        self.on_signal: Callable[[Message, int], None] | None = None
        """Called with a signal and its place in the order of arrival (see ``exchange``)."""
        self.on_lost: Callable[[], None] | None = None
        loop = asyncio.get_running_loop()
        self._authenticated: asyncio.Future[None] = loop.create_future()
        self._gone: asyncio.Future[None] = loop.create_future()
        self._transport: asyncio.Transport | None = None
        self._framer: Framer | None = None
        self._incoming_limit = incoming_limit
        self._line = b""
        self._serial = 0
        self._received = 0
        self._pending: dict[int, tuple[str, asyncio.Future[tuple[Message, int]]]] = {}

    @property
    def alive(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    async def lost(self) -> None:
        """Returns when the connection is gone, whoever ended it."""
        await asyncio.shield(self._gone)

    async def close(self) -> None:
        """Send what is still to be sent, and hang up. May be called twice."""
        if self._transport is None:
            return
        self._transport.close()
        try:
            async with asyncio.timeout(CLOSE_DEADLINE):
                await self.lost()
        except TimeoutError:
            self._transport.abort()
            await self.lost()

    async def exchange(self, message: Message, deadline: float = CALL_DEADLINE) -> tuple[Message, int]:
        """Send a call and wait for its reply: the reply, and its place in the order of arrival.

        Raises CallError for an error reply, DeadlineFault after *deadline* seconds, UnavailableFault when
        there is no bus any more.
        """
        if not self.alive:
            raise _bus_gone()
        future: asyncio.Future[tuple[Message, int]] = asyncio.get_running_loop().create_future()
        serial = self._send(message)
        self._pending[serial] = (message.destination, future)
        try:
            # Not asyncio.wait_for: before Python 3.12 it loses a cancellation that comes with the reply.
            async with asyncio.timeout(deadline):
                reply, order = await future
        except TimeoutError:
            raise DeadlineFault(
                f"{message.destination} did not answer {message.member} in {deadline:g} s") from None
        finally:
            self._pending.pop(serial, None)
        if reply.kind is Kind.ERROR:
            text = reply.body[0] if reply.signature.startswith("s") else reply.error_name
            raise CallError(reply.error_name, text)
        return reply, order

    async def call_bus(self, member: str, signature: str = "", *body: Any) -> list[Any]:
        """Call the bus itself; the reply's body."""
        reply, _ = await self.exchange(Message(
            Kind.CALL, destination=BUS, path=BUS_PATH, interface=BUS, member=member,
            signature=signature, body=list(body)))
        return reply.body

    def emit(self, path: str, interface: str, member: str, signature: str, body: list[Any]) -> None:
        """Broadcast a signal. Without a connection there is nobody to hear it, and nothing happens."""
        self._send(Message(Kind.SIGNAL, path=path, interface=interface, member=member,
                           signature=signature, body=body))

    def answer(self, call: Message, signature: str, body: list[Any]) -> None:
        """Reply to *call*, unless it wants none."""
        if not call.flags & Flag.NO_REPLY_EXPECTED:
            self._send(Message(Kind.RETURN, destination=call.sender, reply_serial=call.serial,
                               signature=signature, body=body))

    def refuse(self, call: Message, error: CallError) -> None:
        """Reply to *call* with an error, unless it wants no reply."""
        if not call.flags & Flag.NO_REPLY_EXPECTED:
            self._send(Message(Kind.ERROR, destination=call.sender, reply_serial=call.serial,
                               error_name=error.dbus_name, signature="s", body=[error.message]))

    def _send(self, message: Message) -> int:
        self._serial = self._serial % 0xFFFFFFFF + 1
        data = encode(replace(message, serial=self._serial))
        if self._transport is not None and self.alive:
            self._transport.write(data)
        return self._serial

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        identity = str(os.geteuid()).encode().hex()
        transport.write(b"\0AUTH EXTERNAL " + identity.encode() + b"\r\n")

    def data_received(self, data: bytes) -> None:
        if self._framer is None:
            data = self._authenticate(data)
        if self._framer is None:
            return
        try:
            for message in self._framer.feed(data):
                self._received += 1
                self._receive(message)
        except ValueError as problem:
            log.error("%s", problem)
            self._hang_up()

    def pause_writing(self) -> None:
        # The bus does not read: then take no more calls whose answers would pile up here.
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def connection_lost(self, problem: Exception | None) -> None:
        if not self._authenticated.done():
            self._authenticated.set_exception(_bus_gone())
        for _, future in self._pending.values():
            if not future.done():
                future.set_exception(_bus_gone())
        self._pending.clear()
        if self.on_lost is not None:
            self.on_lost()
        self.on_call = self.on_signal = self.on_lost = None
        if not self._gone.done():
            self._gone.set_result(None)

    # below it

    def _hang_up(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _authenticate(self, data: bytes) -> bytes:
        """Take the bus's answer to AUTH. What follows it belongs to the first message."""
        self._line += data
        line, separator, rest = self._line.partition(b"\r\n")
        if not separator:
            if len(self._line) > 1024:
                self._hang_up()
            return b""
        if not line.startswith(b"OK ") or self._transport is None:
            if not self._authenticated.done():
                self._authenticated.set_exception(PermissionFault("the bus does not accept this user"))
            self._hang_up()
            return b""
        self._framer = Framer(self._incoming_limit)
        self._transport.write(b"BEGIN\r\n")
        if not self._authenticated.done():
            self._authenticated.set_result(None)
        return rest

    def _receive(self, message: Message) -> None:
        try:
            if message.kind is Kind.CALL:
                if self.on_call is not None:
                    self.on_call(message)
            elif message.kind is Kind.SIGNAL:
                if self.on_signal is not None:
                    self.on_signal(message, self._received)
            else:
                self._receive_reply(message)
        except Exception:
            log.exception("a message from %s could not be handled", message.sender)

    def _receive_reply(self, message: Message) -> None:
        destination, future = self._pending.get(message.reply_serial, ("", None))
        # Who a caller is comes from the bus: nobody else may give this answer.
        if future is None or future.done() or (destination == BUS and message.sender != BUS):
            return
        future.set_result((message, self._received))


def _bus_gone() -> UnavailableFault:
    return UnavailableFault("the connection to the system bus is lost", hint=_LOOK_AT_BUS)


async def open_connection(address: str | None = None, *, incoming_limit: int = INCOMING_LIMIT) -> Connection:
    """Connect to the bus at *address* (None: the system bus, or ``$DBUS_SYSTEM_BUS_ADDRESS``) and say Hello.

    Raises UnavailableFault without a bus, PermissionFault when it does not let us in.
    """
    if address is None:
        address = os.environ.get("DBUS_SYSTEM_BUS_ADDRESS", SYSTEM_BUS)
    try:
        async with asyncio.timeout(OPEN_DEADLINE):
            connection = await _connect_to_first(address, incoming_limit)
            try:
                await connection._authenticated
                [connection.unique_name] = await connection.call_bus("Hello")
            except BaseException:
                connection._hang_up()
                raise
    except (TimeoutError, DeadlineFault):
        raise UnavailableFault(f"the system bus does not answer at {address}", hint=_LOOK_AT_BUS) from None
    except CallError as problem:
        raise UnavailableFault(f"the system bus refuses: {problem.message}", hint=_LOOK_AT_BUS) from None
    return connection


async def _connect_to_first(address: str, incoming_limit: int) -> Connection:
    loop = asyncio.get_running_loop()
    problem: OSError | None = None
    for path in socket_paths(address):
        try:
            _, connection = await loop.create_unix_connection(lambda: Connection(incoming_limit), path)
            return connection
        except OSError as error:
            problem = error
    why = problem.strerror if problem is not None else "no unix socket in this address"
    raise UnavailableFault(f"there is no system bus at {address}: {why}", hint="systemctl start dbus")


def socket_paths(address: str) -> list[str]:
    """The sockets of a D-Bus address list, in its order. Transports other than ``unix`` are passed over."""
    paths = []
    for entry in address.split(";"):
        transport, _, options = entry.partition(":")
        values = dict(option.partition("=")[::2] for option in options.split(","))
        if transport == "unix" and "path" in values:
            paths.append(unquote(values["path"]))
        elif transport == "unix" and "abstract" in values:
            paths.append("\0" + unquote(values["abstract"]))
    return paths
