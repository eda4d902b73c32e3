"""A WebSocket as a link of bytes: binary frames, and pings that notice an end behind a reverse proxy.

TCP's own keepalive ends at the proxy, which may go on holding the connection of a host that is long gone.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from dataclasses import dataclass

from usbip_agent.errors import DeadlineFault, Fault, ProtocolFault
from usbip_agent.transport.flushing import Flusher
from usbip_agent.transport.relay import Buffer, DuplexLink
from usbip_agent.transport.stream import shut_down
from usbip_agent.transport.websocket_frames import MAXIMUM_SENT, NORMAL, POLICY_VIOLATION, Frames

LONGEST_PAUSE = 20.0
"""Seconds between pings, at most: reverse proxies give up what is silent for a minute."""

FAREWELL = 1.0
"""Seconds for a close frame to leave."""


@dataclass(frozen=True, slots=True)
class Pings:
    """How often, and how long may pass after one without a byte. Seconds."""

    every: float
    answer_within: float

    @classmethod
    def within(cls, dead_after: float) -> Pings:
        """Those that notice a peer's death at most *dead_after* seconds later."""
        every = min(dead_after / 2, LONGEST_PAUSE)
        return cls(every, dead_after - every)


class WebSocketLink:
    """An open WebSocket over the link *below*, whose bytes travel in *connected*."""

    def __init__(self, below: DuplexLink, frames: Frames, connected: socket.socket, pings: Pings) -> None:
        self.socket = connected
        """For its addresses, and to shut it; never to be read."""
        self._below = below
        self._frames = frames
        self._payloads: deque[Buffer] = deque()
        self._flusher = Flusher(self._write_replies)
        self._is_torn = False
        self._fault: Fault | None = None
        self._closed = False
        self._is_listening = False
        self._heard = asyncio.Event()
        self._pinger = asyncio.create_task(self._ping(pings))

    async def receive(self) -> Buffer:
        while not self._payloads:
            if self._fault is not None:
                raise self._fault
            if self._frames.ended:
                return b""
            self.feed(await self._hear())
        return self._payloads.popleft()

    def feed(self, data: Buffer) -> None:
        """Takes what came from below. Fault, and then again from every other call."""
        self._heard.set()
        try:
            self._payloads.extend(self._frames.feed(data))
        except Fault as fault:
            self._fault = self._fault or fault
        if self._frames.replies:
            self._flusher.flush_soon()

    async def send(self, data: Buffer) -> None:
        whole = memoryview(data)
        async with self._flusher.turn:
            for start in range(0, len(whole), MAXIMUM_SENT):
                await self._write_replies()
                await self._write(self._frames.binary(whole[start:start + MAXIMUM_SENT]))
            await self._write_replies()

    async def close(self) -> None:
        await self._close(NORMAL, "")

    async def refuse(self, reason: str) -> None:
        """Closes, and lets the other side know that it is not welcome, and why: a RefusedFault to it."""
        await self._close(POLICY_VIOLATION, reason)

    async def _close(self, code: int, reason: str) -> None:
        if self._closed:
            return
        self._closed = True
        self._pinger.cancel()
        try:
            async with asyncio.timeout(FAREWELL):
                self._frames.close(code, reason)
                await self._flusher.flush()
        except (Fault, TimeoutError):
            pass  # it has gone without hearing it
        finally:
            self._flusher.cancel()
            self._fault = self._fault or ProtocolFault("the WebSocket is closed")
            await self._below.close()

    async def _hear(self) -> Buffer:
        self._is_listening = True
        try:
            data = await self._below.receive()
        except Fault as fault:
            raise self._fault or fault from None
        finally:
            self._is_listening = False
        if not data:
            raise self._fault or ProtocolFault("the connection under the WebSocket was cut")
        return data

    async def _ping(self, pings: Pings) -> None:
        while True:
            await asyncio.sleep(pings.every)
            self._heard.clear()
            try:
                self._frames.ping()
            except Fault:
                return  # the end is known already
            self._flusher.flush_soon()
            try:
                async with asyncio.timeout(pings.answer_within):
                    await self._heard.wait()
            except TimeoutError:
                # While nobody takes what has come, the answer may be waiting behind it.
                if self._is_listening:
                    self._fault = DeadlineFault(f"no answer to a ping for {pings.answer_within:g} s")
                    shut_down(self.socket)
                    return

    async def _write_replies(self) -> None:
        while replies := bytes(self._frames.replies):
            self._frames.replies.clear()
            await self._write(replies)

    async def _write(self, data: bytes) -> None:
        """All of *data* or, once that failed, nothing ever after: half a frame cannot be taken back."""
        if self._is_torn:
            raise self._fault or ProtocolFault("the WebSocket broke")
        self._is_torn = True
        try:
            await self._below.send(data)
        except Fault as fault:
            raise self._fault or fault from None
        self._is_torn = False
