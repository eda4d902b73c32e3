"""The device side of a WebSocket: ``wss://`` to a reverse proxy, through an HTTP proxy if there is one."""

from __future__ import annotations

import asyncio
import socket
import ssl
from urllib.parse import urlsplit

from usbip_agent.errors import DeadlineFault, ProtocolFault, RefusedFault, UnreachableFault
from usbip_agent.policy.proxy import Proxy
from usbip_agent.transport.http_head import ResponseHead, end_of_head, parse_head
from usbip_agent.transport.http_proxy import Connect, connect_through
from usbip_agent.transport.relay import DuplexLink, SocketLink
from usbip_agent.transport.stream import tune
from usbip_agent.transport.tls_link import TlsLink
from usbip_agent.transport.websocket import Pings, WebSocketLink
from usbip_agent.transport.websocket_frames import ClientHandshake

DEADLINE = 15.0
"""Seconds from the connection to the open WebSocket."""

HTTPS_PORT = 443


async def open_websocket(
        url: str, connect: Connect, *, dead_after: float, proxy: Proxy | None = None,
        context: ssl.SSLContext | None = None, deadline: float = DEADLINE) -> WebSocketLink:
    """The WebSocket at *url*, ``wss://host[:port]/path``, as the configuration takes it.

    The outer TLS is verified against the system's CAs, or as *context* says. UnreachableFault, RefusedFault,
    DeadlineFault or ProtocolFault, in words that tell proxy, reverse proxy and what is behind it apart.
    """
    host, port = host_of(url), urlsplit(url).port or HTTPS_PORT
    reached = connect(host, port) if proxy is None else connect_through(proxy, host, port, connect)
    connected = await reached
    outer = TlsLink(SocketLink(connected), context or _usual_context(), server_hostname=host, peer=host)
    try:
        tune(connected, dead_after)
        async with asyncio.timeout(deadline):
            await outer.handshake()
            return await _upgrade(outer, url, connected, Pings.within(dead_after))
    except TimeoutError:
        await outer.close()
        raise DeadlineFault(f"{host} opened no WebSocket for {deadline:g} s") from None
    except BaseException:
        await outer.close()
        raise


def host_of(url: str) -> str:
    """The name or address in *url*."""
    return urlsplit(url).hostname or ""


def _usual_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


async def _upgrade(outer: DuplexLink, url: str, connected: socket.socket, pings: Pings) -> WebSocketLink:
    handshake = ClientHandshake(url)
    await outer.send(handshake.request)
    answer = bytearray()
    while (end := end_of_head(answer)) is None:
        data = await outer.receive()
        if not data:
            raise ProtocolFault("it hung up before it answered the WebSocket request")
        answer += data
    refuse_unless_upgraded(parse_head(answer[:end]), url)
    websocket = WebSocketLink(outer, handshake.take(answer[:end]), connected, pings)
    if answer[end:]:
        websocket.feed(bytes(answer[end:]))
    return websocket


def refuse_unless_upgraded(head: ResponseHead, url: str) -> None:
    """Returns when *head* says that a WebSocket follows. RefusedFault, UnreachableFault."""
    server, path, said = host_of(url), urlsplit(url).path or "/", head.shown
    match head.status:
        case 101:
            return
        case 401:
            raise RefusedFault(f"{server} wants a password for {path} ({said})",
                               hint="the certificates inside the WebSocket are what protects it")
        case 403:
            raise RefusedFault(f"{server} forbids {path} ({said})")
        case 404:
            raise RefusedFault(f"{server} has nothing at {path} ({said})", hint="is the path in url: right?")
        case 400 | 405 | 426 | 501:
            raise RefusedFault(f"{server} passes no WebSocket on at {path} ({said})",
                               hint="its proxy has to pass on Upgrade and Connection, and speak HTTP/1.1")
        case 502 | 503 | 504:
            raise UnreachableFault(f"{server} cannot reach usbipa behind it ({said})")
        case 301 | 302 | 303 | 307 | 308:
            raise RefusedFault(f"{server} sends elsewhere: {', '.join(head.all('location'))} ({said})")
        case _:
            raise RefusedFault(f"{server} says {said}")
