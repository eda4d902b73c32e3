"""A host behind a reverse proxy, both in this process, over real sockets."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

from usbip_agent.errors import Fault
from usbip_agent.transport.stream import Stream
from usbip_agent.transport.websocket_accept import accept_websocket

DEADLINE = 20.0

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def server_that(serve: Serve, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """The port of a server that does *serve* with each connection, and leaves nothing behind."""
    at_work: set[asyncio.Task[None]] = set()

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        at_work.add(task)
        try:
            await serve(reader, writer)
        except (asyncio.CancelledError, OSError, EOFError):
            pass
        finally:
            at_work.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(one, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        tasks = tuple(at_work)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks)
        for _ in range(20):  # asyncio's own transports, of handshakes that failed, end by themselves
            await asyncio.sleep(0)


def forwarding_to(port: int, frozen: asyncio.Event | None = None) -> Serve:
    """What a reverse proxy does: the head with a header more, and then bytes both ways.

    Once *frozen*, it holds both connections, and what comes gets lost: to each end the other is dead.
    """
    is_frozen = frozen or asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", port)
        behind_writer.write(head[:-2] + b"X-Forwarded-For: 203.0.113.9\r\n\r\n")
        ways = [asyncio.create_task(_splice(reader, behind_writer, is_frozen)),
                asyncio.create_task(_splice(behind_reader, writer, is_frozen))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            behind_writer.transport.abort()
    return serve


async def _splice(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, frozen: asyncio.Event) -> None:
    while data := await reader.read(65536):
        if frozen.is_set():
            continue
        writer.write(data)
        await writer.drain()
    with suppress(OSError):
        await writer.drain()
    writer.close()


def answering(data: bytes) -> Serve:
    """A server that says the same to everyone."""
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(data)
        await reader.read()
    return serve


class Host:
    """usbipa's side: takes connections one after the other, and keeps what became of each."""

    def __init__(self, context: ssl.SSLContext, verify: Callable[[bytes | None], str | None],
                 dead_after: float) -> None:
        self._context, self._verify, self._dead_after = context, verify, dead_after
        self.outcomes: asyncio.Queue[Stream | Fault] = asyncio.Queue()

    async def take(self, connection: socket.socket) -> None:
        def verify(certificate: bytes | None, _names: Mapping[str, Any] | None) -> str | None:
            return self._verify(certificate)

        try:
            async with asyncio.timeout(DEADLINE):
                stream, node = await accept_websocket(
                    connection, self._context, verify, dead_after=self._dead_after)
            outcome: Stream | Fault = replace(stream, node=node)
        except Fault as fault:
            outcome = fault
        self.outcomes.put_nowait(outcome)

    async def stream(self) -> Stream:
        outcome = await asyncio.wait_for(self.outcomes.get(), DEADLINE)
        assert isinstance(outcome, Stream), outcome
        return outcome

    async def fault(self) -> Fault:
        outcome = await asyncio.wait_for(self.outcomes.get(), DEADLINE)
        assert isinstance(outcome, Fault), outcome
        return outcome


@asynccontextmanager
async def host_that(context: ssl.SSLContext, verify: Callable[[bytes | None], str | None],
                    dead_after: float = DEADLINE) -> AsyncIterator[tuple[Host, int]]:
    """A host that listens, and its port."""
    host = Host(context, verify, dead_after)
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)

    async def accept() -> None:
        async with asyncio.TaskGroup() as negotiations:
            while True:
                connection, _ = await asyncio.get_running_loop().sock_accept(listening)
                negotiations.create_task(host.take(connection))

    accepting = asyncio.create_task(accept())
    try:
        yield host, listening.getsockname()[1]
    finally:
        accepting.cancel()
        await asyncio.wait({accepting})
        listening.close()
