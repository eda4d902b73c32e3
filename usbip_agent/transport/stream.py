"""A connected stream, and reading from it to the byte.

After the negotiation the socket goes to the kernel with whatever is still in its buffer: a byte read too many
here is a byte missing from the first URB. So nothing below reads ahead.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import select
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from usbip_agent.errors import ProtocolFault

TCP_USER_TIMEOUT = 18
"""include/uapi/linux/tcp.h; typeshed forgets that ``socket`` has it."""

DEAD_AFTER = 10.0
"""Seconds after which a peer that says nothing any more is taken for dead."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


async def _nothing_to_end() -> None:
    return None


@dataclass(frozen=True, slots=True)
class Stream:
    """A connected, non-blocking stream socket that the kernel may be given, and who is at its other end."""

    socket: socket.socket
    peer: str
    """Address and port as they are shown: ``10.9.0.7:40312``, ``[2001:db8::7]:40312``."""
    address: Address
    transport: str
    """As ``status`` shows it: ``plain``, ``tls``, ``tls (relay)``, ``wss``."""
    node: str | None = None
    """The authenticated name of the other end; None on a plain connection."""
    certificate: str = ""
    """Fingerprint of the certificate that *node* has enrolled with; empty where a CA, or nobody, vouches."""
    end_relay: Callable[[], Awaitable[None]] = field(default=_nothing_to_end)
    """Ends what moves the bytes in user space, where something does."""

    @property
    def is_anonymous(self) -> bool:
        """Whether it is encrypted, but nobody has said who is there: good to enrol, and for nothing else."""
        return self.node is None and self.transport != "plain"

    async def close(self) -> None:
        """Ends the connection; what the kernel was given of it ends as well."""
        shut_down(self.socket)
        self.socket.close()
        await self.end_relay()


class SilentEnd(ProtocolFault):
    """The other side went without a word, as port scans, load balancers and our own probes do."""


def broken(error: OSError) -> ProtocolFault:
    """What it means that a call on a connected socket fails."""
    return ProtocolFault(f"the connection broke: {(error.strerror or str(error)).lower()}")


def plain_stream(connected: socket.socket) -> Stream:
    """The stream over a connected TCP socket. ProtocolFault when the other side is gone already."""
    try:
        name = connected.getpeername()
    except OSError as error:  # it knows only that there is no peer; the socket still knows why
        why = connected.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        raise broken(OSError(why, os.strerror(why)) if why else error) from None
    address = ipaddress.ip_address(name[0].partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return Stream(connected, show_peer(address, name[1]), address, "plain")


def show_peer(address: Address, port: int) -> str:
    """``10.9.0.7:3240`` or ``[2001:db8::7]:3240``."""
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def tune(connected: socket.socket, dead_after: float) -> None:
    """Sets what the kernel's drivers cannot: no delay, and a dead peer's end within *dead_after* seconds.

    USB/IP has no heartbeat. Keepalive finds the end of an idle link, TCP_USER_TIMEOUT that of one with data
    under way; both options stay with the socket after the hand-over. Never SO_RCVTIMEO: an idle device
    would be dropped.
    """
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    probes = 3
    interval = max(1, int(dead_after / 6))
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, int(dead_after) - probes * interval))
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, interval)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, probes)
    connected.setsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT, int(dead_after * 1000))


def shut_down(connected: socket.socket) -> None:
    """Ends the connection for every holder of the socket, the kernel's drivers among them."""
    try:
        connected.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it has ended already


async def receive_exactly(connected: socket.socket, count: int, begun: bytes = b"") -> bytes:
    """*count* bytes and not one more; *begun* are those of them that were received before.

    The caller sets the deadline. ProtocolFault when the other side ends before, SilentEnd if it said nothing.
    """
    loop = asyncio.get_running_loop()
    received = begun
    while len(received) < count:
        try:
            chunk = await loop.sock_recv(connected, count - len(received))
        except OSError as error:
            raise _end_after(len(received), count, error) from None
        if not chunk:
            raise _end_after(len(received), count)
        received += chunk
    return received


async def peek_exactly(connected: socket.socket, count: int) -> bytes:
    """The next *count* bytes, left where they are. Faults as of ``receive_exactly``."""
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)
    try:
        while True:
            await _readable(connected)
            try:
                peeked = connected.recv(count, socket.MSG_PEEK)
            except BlockingIOError:
                continue
            except OSError as error:
                raise _end_after(0, count, error) from None
            if len(peeked) == count:
                return peeked
            if not peeked or await _has_ended(connected):
                raise _end_after(len(peeked), count)
    finally:
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)


def _end_after(received: int, count: int, error: OSError | None = None) -> ProtocolFault:
    if error is not None:
        what = broken(error).what
    elif received:
        what = f"the other side hung up after {received} of {count} bytes"
    else:
        what = "the other side hung up without a word"
    return ProtocolFault(what) if received else SilentEnd(what)


async def send_all(connected: socket.socket, data: bytes) -> None:
    """Sends *data*. ProtocolFault when the other side does not take it."""
    try:
        await asyncio.get_running_loop().sock_sendall(connected, data)
    except OSError as error:
        raise broken(error) from None


async def _readable(connected: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not readable.done():
            readable.set_result(None)

    loop.add_reader(connected.fileno(), wake)
    try:
        await readable
    finally:
        loop.remove_reader(connected.fileno())


async def _has_ended(connected: socket.socket) -> bool:
    """Whether a short peek is all there will be: the other side has shut down its half.

    Yields once, so that a dribbling peer cannot hold the loop.
    """
    await asyncio.sleep(0)
    poller = select.poll()
    poller.register(connected.fileno(), select.POLLRDHUP)
    return bool(poller.poll(0))
