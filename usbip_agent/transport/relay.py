"""Moving bytes in user space, where the kernel cannot have the connection itself.

The kernel's driver gets one end of a socketpair; between the other end and a *link* (whatever speaks TLS or
WebSocket) two tasks move the bytes. Nothing is read from either before the other has taken what came last:
a slow reader is felt at the other end of the link, and the memory held is a few buffers.

Any end is the end of both directions, as it is to the kernel's drivers. What was accepted before goes out.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from usbip_agent.errors import Fault
from usbip_agent.transport.stream import broken, shut_down

log = logging.getLogger(__name__)

Buffer = bytes | bytearray | memoryview

CHUNK = 256 * 1024
"""Bytes that are moved at once, at most: few enough to stay in a processor's cache."""

GRACE = 2.0
"""Seconds for what was accepted to go out once the end has come."""

_TURNS = 8
"""Chunks that a pump moves before it gives way: with data at hand, no await of its own does."""


class DuplexLink(Protocol):
    """Carries bytes both ways. At most one task receives and one sends, both at the same time."""

    async def receive(self) -> Buffer:
        """Some bytes, which are the caller's until the next call; none = the other end has ended.

        Fault when the link broke, or carried what it must not.
        """

    async def send(self, data: Buffer) -> None:
        """Returns when *data* is not needed any more. Fault when the link is no more."""

    async def close(self) -> None:
        """Says goodbye without waiting for an answer, and lets go of everything. May repeat; no Fault."""


async def start_relay(link: DuplexLink, on_fault: Callable[[Fault], None] | None = None,
                      ) -> tuple[socket.socket, Callable[[], Awaitable[None]]]:
    """A non-blocking socket that stands for *link*, for the kernel to have, and what ends both.

    *on_fault* is told what ended the link, where that was no orderly end; without it, the journal is.
    """
    relay = Relay(link, on_fault)
    return relay.socket, relay.end


class SocketLink:
    """A connected, non-blocking stream socket as a link."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self._buffer = memoryview(bytearray(CHUNK))

    async def receive(self) -> Buffer:
        try:
            count = await asyncio.get_running_loop().sock_recv_into(self.socket, self._buffer)
        except OSError as error:
            raise broken(error) from None
        return self._buffer[:count]

    async def send(self, data: Buffer) -> None:
        try:
            await asyncio.get_running_loop().sock_sendall(self.socket, data)
        except OSError as error:
            raise broken(error) from None

    async def close(self) -> None:
        shut_down(self.socket)
        self.socket.close()


class Relay:
    """One link, and the socket that stands for it."""

    def __init__(self, link: DuplexLink, on_fault: Callable[[Fault], None] | None = None) -> None:
        self._link = link
        self._on_fault: Callable[[Fault], None] | None = on_fault or _note
        self._ours, self.socket = socket.socketpair()
        self._ours.setblocking(False)
        self.socket.setblocking(False)
        self._task = asyncio.create_task(self._run())
        _running.add(self)

    async def end(self) -> None:
        """Ends the link and the socket, once what the socket's holder has written until now went out."""
        if not self._task.done():
            shut_down(self._ours)
            await asyncio.wait({self._task}, timeout=GRACE)
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        outward = asyncio.create_task(self._pump_outward())
        inward = asyncio.create_task(self._pump_inward())
        try:
            await asyncio.wait({outward, inward}, return_when=asyncio.FIRST_COMPLETED)
            if not outward.done() and _is_unread(inward):
                await asyncio.wait({outward}, timeout=GRACE)
        finally:
            for pump in (outward, inward):
                self._judge(pump)
                pump.cancel()
            shut_down(self._ours)
            await asyncio.wait({outward, inward})
            self._ours.close()
            await self._link.close()
            _running.discard(self)

    async def _pump_outward(self) -> None:
        loop = asyncio.get_running_loop()
        buffer = memoryview(bytearray(CHUNK))
        turns = 0
        while True:
            try:
                count = await loop.sock_recv_into(self._ours, buffer)
            except OSError:
                return  # closed with something unread: an end like any other
            if not count:
                return
            await self._link.send(buffer[:count])
            turns += 1
            if not turns % _TURNS:
                await asyncio.sleep(0)

    async def _pump_inward(self) -> bool:
        """True: the link has more to say, but nobody reads the socket."""
        loop = asyncio.get_running_loop()
        turns = 0
        while data := await self._link.receive():
            try:
                await loop.sock_sendall(self._ours, data)
            except OSError:
                return True
            turns += 1
            if not turns % _TURNS:
                await asyncio.sleep(0)
        return False

    def _judge(self, pump: asyncio.Task[Any]) -> None:
        """Tells of what ended *pump*, once for both."""
        if not pump.done() or pump.cancelled() or (error := pump.exception()) is None:
            return
        if not isinstance(error, Fault):
            log.error("a relay ended in an unforeseen way", exc_info=error)
        elif self._on_fault is not None:
            on_fault, self._on_fault = self._on_fault, None
            on_fault(error)


def _note(fault: Fault) -> None:
    log.info("a connection through a relay ended: %s", fault)


def _is_unread(inward: asyncio.Task[bool]) -> bool:
    return not inward.cancelled() and inward.exception() is None and inward.result()


_running: set[Relay] = set()
"""The event loop holds its tasks weakly, and who was given a socket need not hold the relay."""
