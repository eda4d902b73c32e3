"""Mutual TLS inside a WebSocket: identity from end to end, whoever ends the outer TLS on the way."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from usbip_agent.errors import DeadlineFault, Fault
from usbip_agent.transport.relay import start_relay
from usbip_agent.transport.stream import Stream, plain_stream
from usbip_agent.transport.tls import HOW_TO_ENROL
from usbip_agent.transport.tls_link import TlsLink
from usbip_agent.transport.websocket import WebSocketLink

DEADLINE = 15.0
"""Seconds for the handshake."""

T = TypeVar("T")

Verify = Callable[[bytes | None, Mapping[str, Any] | None], T]


async def tls_inside(websocket: WebSocketLink, context: ssl.SSLContext, verify: Verify[T], *,
                     server_side: bool, server_hostname: str | None = None, deadline: float = DEADLINE,
                     on_fault: Callable[[Fault], None] | None = None) -> tuple[Stream, T]:
    """A stream through the mutual TLS inside *websocket*, and what *verify* says of the peer's certificate.

    *verify* is given the certificate as DER and what ``getpeercert`` says of it, and raises a Fault whose
    words stay here: the peer learns that it is refused, not why. *on_fault* is told what ended the stream
    later on, where that was no orderly end: a host may refuse us when our half of the handshake is over.

    The stream's ``address`` is that of the reverse proxy. On an exception the WebSocket is closed.
    """
    peer = "the node" if server_side else "the host"
    tls = TlsLink(websocket, context, server_side=server_side, server_hostname=server_hostname, peer=peer,
                  hint="" if server_side else HOW_TO_ENROL)
    try:
        stream = plain_stream(websocket.socket)
        async with asyncio.timeout(deadline):
            await tls.handshake()
    except TimeoutError:
        await tls.close()
        raise DeadlineFault(f"no TLS handshake from {peer} for {deadline:g} s") from None
    except BaseException:
        await tls.close()
        raise
    try:
        verified = verify(tls.peer_certificate, tls.peer_names)
    except BaseException:
        await websocket.refuse("certificate not accepted")
        raise
    near, end = await start_relay(tls, on_fault)
    return replace(stream, socket=near, transport="ws" if server_side else "wss", end_relay=end), verified
