"""From a host's entry with ``transport: wss`` to a stream: outer TLS, WebSocket, and the TLS inside."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import replace

from usbip_agent.errors import Fault
from usbip_agent.policy.hosts import Host
from usbip_agent.transport.http_proxy import Connect
from usbip_agent.transport.inner_tls import tls_inside
from usbip_agent.transport.stream import Stream
from usbip_agent.transport.websocket_client import host_of, open_websocket


async def dial_websocket(host: Host, context: ssl.SSLContext, verify: Callable[[bytes | None], object],
                         connect: Connect, *, outer_context: ssl.SSLContext | None = None,
                         on_fault: Callable[[Fault], None] | None = None) -> Stream:
    """A stream to *host*. *context* and *verify* are those of the TLS inside; *verify* raises a Fault.

    *outer_context* says who is believed to be the reverse proxy: without, whom the system's CAs vouch for.
    *on_fault* is told what ended the stream, where that was no orderly end.
    """
    websocket = await open_websocket(host.url, connect, dead_after=host.dead_after, proxy=host.proxy,
                                     context=outer_context)
    stream, _ = await tls_inside(
        websocket, context, lambda certificate, _names: verify(certificate), server_side=False,
        server_hostname=host_of(host.url) if context.check_hostname else None, on_fault=on_fault)
    return replace(stream, node=host.name)
