"""From an accepted connection that asks for a WebSocket to a stream: HTTP, WebSocket, and the TLS inside."""

from __future__ import annotations

import socket
import ssl
from typing import TypeVar

from usbip_agent.transport.inner_tls import Verify, tls_inside
from usbip_agent.transport.stream import Stream
from usbip_agent.transport.websocket import Pings
from usbip_agent.transport.websocket_server import answer_websocket

T = TypeVar("T")


async def accept_websocket(connection: socket.socket, context: ssl.SSLContext, verify: Verify[T], *,
                           dead_after: float) -> tuple[Stream, T]:
    """The stream of a node that comes by WebSocket, and what *verify* says of it; a Fault if it raises that.

    The stream's ``address`` is that of the reverse proxy. The caller sets the deadline. On any exception
    *connection* is closed.
    """
    websocket = await answer_websocket(connection, Pings.within(dead_after))
    return await tls_inside(websocket, context, verify, server_side=True)
