"""The application side of a WebSocket: a reverse proxy, which ended the outer TLS, has connected to us."""

from __future__ import annotations

import asyncio
import socket

from usbip_agent.errors import Fault, ProtocolFault
from usbip_agent.transport.relay import SocketLink
from usbip_agent.transport.websocket import Pings, WebSocketLink
from usbip_agent.transport.websocket_frames import ServerHandshake

BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"

REFUSAL = 1.0
"""Seconds for a refusal to leave."""


async def answer_websocket(connection: socket.socket, pings: Pings) -> WebSocketLink:
    """The WebSocket that the first bytes on *connection* ask for (``GET ``). ProtocolFault when they do not.

    The path means nothing; nor do the headers that name a client: whoever reaches us can write them. The
    caller sets the deadline. On any exception *connection* is closed.
    """
    below = SocketLink(connection)
    handshake = ServerHandshake()
    try:
        while (frames := handshake.feed(await _request(below))) is None:
            pass
        await below.send(handshake.answer)
    except Fault:
        await _refuse(below, handshake.answer)
        raise
    except BaseException:
        await below.close()
        raise
    return WebSocketLink(below, frames, connection, pings)


async def _request(below: SocketLink) -> bytes:
    data = bytes(await below.receive())
    if not data:
        raise ProtocolFault("it hung up in the middle of its WebSocket request")
    return data


async def _refuse(below: SocketLink, answer: bytes) -> None:
    """Says no in HTTP: the reverse proxy's administrator reads its log, not ours."""
    try:
        async with asyncio.timeout(REFUSAL):
            await below.send(answer or BAD_REQUEST)
    except (Fault, TimeoutError):
        pass  # it has gone without hearing it
    finally:
        await below.close()
