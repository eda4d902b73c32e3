"""From a host of the policy to a connected socket: the first of its addresses that answers.

Addresses of one name are equal: they race, each with a short head start over the next (RFC 8305), so that
a family that leads nowhere costs a moment. Targets of SRV records are not: the next is for when the one
before has failed, or says nothing. Each address has its own time to answer, whatever was tried before it.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from functools import partial

from usbip_agent.errors import UnreachableFault
from usbip_agent.policy.hosts import Host
from usbip_agent.transport.names import Endpoint, dialled, endpoints_of_name, targets_of

CONNECT_DEADLINE = 10.0
"""Seconds for an address to answer."""

HEAD_START = 0.3
"""Seconds that an address has before the next of the same name is tried as well."""

TARGET_HEAD_START = 3.0
"""The same for a target of SRV records: two lost packets do not send a node elsewhere."""

MAXIMUM_ADDRESSES = 32
"""Of one name, that are tried."""

_WORDS = {
    errno.ECONNREFUSED: "connection refused",
    errno.EHOSTUNREACH: "no route to host",
    errno.ENETUNREACH: "network unreachable",
    errno.ETIMEDOUT: "connection timed out",
    errno.EACCES: "a firewall of this machine forbids it",
    errno.EPERM: "a firewall of this machine forbids it",
}

Way = Callable[[], Coroutine[object, object, socket.socket]]
"""What may lead to a connected socket. UnreachableFault, in a time of its own."""


async def connect_to(host: Host) -> socket.socket:
    """A non-blocking TCP socket to *host*, which is dialled directly. UnreachableFault."""
    if not host.service:
        return await connect_to_name(*dialled(host))
    targets = await targets_of(host.service)
    return await first_of(
        (partial(connect_to_name, each.target, each.port) for each in targets), TARGET_HEAD_START)


async def connect_to_name(name: str, port: int) -> socket.socket:
    """A non-blocking TCP socket to the first address of *name* that answers. UnreachableFault."""
    endpoints = await endpoints_of_name(name, port)
    return await first_of((partial(_connect, each) for each in endpoints[:MAXIMUM_ADDRESSES]), HEAD_START)


async def first_of(ways: Iterable[Way], head_start: float) -> socket.socket:
    """The socket of the first of *ways* that leads to one; none other stays open.

    It is a way's turn when the one before it has failed, or has had its *head_start* in seconds.
    UnreachableFault when all have failed, with each kind of failure once.
    """
    loop = asyncio.get_running_loop()
    left = deque(ways)
    under_way: list[asyncio.Task[socket.socket]] = []
    failures: dict[str, None] = {}
    next_turn = 0.0
    try:
        while left or under_way:
            if left and loop.time() >= next_turn:
                latest = asyncio.ensure_future(left.popleft()())
                under_way.append(latest)
                next_turn = loop.time() + head_start
            await asyncio.wait(under_way, timeout=max(0.0, next_turn - loop.time()) if left else None,
                               return_when=asyncio.FIRST_COMPLETED)
            if latest.done():
                next_turn = 0.0
            for task in [each for each in under_way if each.done()]:
                under_way.remove(task)
                try:
                    return task.result()
                except UnreachableFault as fault:
                    failures[fault.what] = None
    finally:
        await _send_home(under_way)
    raise UnreachableFault(", ".join(failures) or "no address to connect to")


async def _send_home(tasks: list[asyncio.Task[socket.socket]]) -> None:
    for task in tasks:
        task.add_done_callback(_close)
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


def _close(task: asyncio.Task[socket.socket]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()


async def _connect(endpoint: Endpoint) -> socket.socket:
    try:
        async with asyncio.timeout(CONNECT_DEADLINE) as limit:
            return await _connected(endpoint)
    except OSError as error:
        what = f"no answer for {CONNECT_DEADLINE:g} s" if limit.expired() else _words(error)
        raise UnreachableFault(what) from None


async def _connected(endpoint: Endpoint) -> socket.socket:
    candidate = socket.socket(
        endpoint.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        await asyncio.get_running_loop().sock_connect(candidate, endpoint.sockaddr)
    except BaseException:
        candidate.close()
        raise
    return candidate


def _words(error: OSError) -> str:
    number = error.errno or 0
    return _WORDS.get(number, os.strerror(number).lower())
