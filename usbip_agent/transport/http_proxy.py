"""Through an HTTP proxy: CONNECT, then the socket is a plain one to the host behind it."""

from __future__ import annotations

import asyncio
import base64
import socket
from collections.abc import Awaitable, Callable

from usbip_agent.errors import Fault, ProtocolFault, RefusedFault, UnreachableFault
from usbip_agent.policy.proxy import Proxy
from usbip_agent.transport.http_head import MAXIMUM_HEAD, ResponseHead, end_of_head, parse_head
from usbip_agent.transport.stream import broken, receive_exactly, send_all

DEADLINE = 15.0
"""Seconds for the proxy to answer; it has to reach the host meanwhile."""

Connect = Callable[[str, int], Awaitable[socket.socket]]
"""A non-blocking TCP socket to a name and port. UnreachableFault."""


async def connect_through(proxy: Proxy, host: str, port: int, connect: Connect, *,
                          deadline: float = DEADLINE) -> socket.socket:
    """A socket to *host* through *proxy*; what the host says first is still in it.

    UnreachableFault or RefusedFault, in words that tell the proxy's faults from the host's.
    """
    try:
        connected = await connect(proxy.host, proxy.port)
    except Fault as fault:
        raise UnreachableFault(f"{_name(proxy)}: {fault.what}", hint=fault.hint) from None
    try:
        async with asyncio.timeout(deadline):
            await send_all(connected, connect_request(proxy, host, port))
            head = await _receive_head(connected)
        refuse_unless_connected(head, proxy, host, port)
    except TimeoutError:
        connected.close()
        raise UnreachableFault(f"{_name(proxy)} did not answer for {deadline:g} s") from None
    except ProtocolFault as fault:
        connected.close()
        raise UnreachableFault(f"{_name(proxy)}: {fault.what}") from None
    except BaseException:
        connected.close()
        raise
    return connected


def connect_request(proxy: Proxy, host: str, port: int) -> bytes:
    """The request's bytes. *host* is a name or an IP address, as the configuration takes them."""
    # A link-local address's interface is a matter of this machine.
    bare = host.partition("%")[0]
    try:
        name = f"[{bare}]" if ":" in bare else bare.encode("idna").decode("ascii")
    except UnicodeError:
        raise UnreachableFault(f"{host} is no host name") from None
    lines = [f"CONNECT {name}:{port} HTTP/1.1", f"Host: {name}:{port}"]
    if proxy.user is not None:
        credentials = base64.b64encode(f"{proxy.user}:{proxy.password}".encode()).decode("ascii")
        lines.append(f"Proxy-Authorization: Basic {credentials}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


def refuse_unless_connected(head: ResponseHead, proxy: Proxy, host: str, port: int) -> None:
    """Returns when *head* says yes. RefusedFault, UnreachableFault."""
    name, said = _name(proxy), head.shown
    match head.status:
        case 200 | 201 | 202 | 203 | 204 | 205 | 206:
            return
        case 407 | 401:  # tinyproxy says 401 when the password is wrong
            raise _wants_credentials(head, proxy)
        case 403:
            raise RefusedFault(f"{name} forbids connections to {host} port {port} ({said})",
                               hint=f"its administrator has to allow CONNECT to port {port}")
        case 500 | 502 | 503 | 504:  # tinyproxy says 500
            raise UnreachableFault(f"{name} cannot reach {host} port {port} ({said})")
        case 400 | 404 | 405 | 501:
            raise RefusedFault(f"{name} takes no CONNECT ({said})", hint="is this an HTTP proxy's port?")
        case _:
            raise RefusedFault(f"{name} says {said}")


def _wants_credentials(head: ResponseHead, proxy: Proxy) -> Fault:
    schemes = [value.partition(" ")[0] for value in head.all("proxy-authenticate")]
    what = f"{_name(proxy)} wants {'' if proxy.user is None else 'other '}credentials ({head.shown})"
    if schemes and not any(scheme.lower() == "basic" for scheme in schemes):
        return RefusedFault(f"{what}, and by {' or '.join(schemes[:4])} only", hint="Basic is what we know")
    return RefusedFault(what, hint="proxy: http://user:password@host:port")


async def _receive_head(connected: socket.socket) -> ResponseHead:
    """The final answer's head, read to the byte. ProtocolFault."""
    head, total = bytearray(), 0
    while True:
        peeked = await _peek(connected)
        before = len(head)
        head += peeked
        end = end_of_head(head)
        taken = len(peeked) if end is None else end - before
        await receive_exactly(connected, taken)
        total += taken
        if end is None:
            continue
        found = parse_head(head[:end])
        if not found.is_interim:
            return found
        if total > MAXIMUM_HEAD:
            raise ProtocolFault("no end of interim answers")
        head.clear()


async def _peek(connected: socket.socket) -> bytes:
    """What has arrived, at least one byte, left where it is. ProtocolFault when nothing more comes."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            peeked = connected.recv(MAXIMUM_HEAD, socket.MSG_PEEK)
        except BlockingIOError:
            readable = asyncio.Event()
            loop.add_reader(connected.fileno(), readable.set)
            try:
                await readable.wait()
            finally:
                loop.remove_reader(connected.fileno())
            continue
        except OSError as error:
            raise broken(error) from None
        if not peeked:
            raise ProtocolFault("it hung up before its answer")
        return peeked


def _name(proxy: Proxy) -> str:
    return f"the proxy {proxy.host} port {proxy.port}"
