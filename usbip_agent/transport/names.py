"""From a host of the policy to a connected socket: its names, their addresses, the first that answers.

A host has one address, or several of both families, or SRV records name it. Addresses of one name are equal:
they race, each with a short head start over the next (RFC 8305), so that a family that leads nowhere costs
a moment. Targets of SRV records are not: the next is for when the one before has failed.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import random
import socket
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from usbip_agent.blocking import in_thread
from usbip_agent.errors import DeadlineFault, UnreachableFault
from usbip_agent.policy.hosts import Host
from usbip_agent.transport.lookups import Lookups
from usbip_agent.transport.services import in_order, service_records

RESOLVE_DEADLINE = 10.0
"""Seconds that somebody waits for the addresses of a name."""

ABANDONED_AFTER = 180.0
"""Seconds after which a lookup that hangs is no longer waited for by new askers."""

HEAD_START = 0.3
"""Seconds that an address has before the next of the same name is tried as well."""

TARGET_HEAD_START = 3.0
"""The same for all addresses of a target of SRV records: two lost packets do not send a node elsewhere."""

MAXIMUM_TARGETS = 16
HTTPS_PORT = 443

_WORDS = {
    errno.ECONNREFUSED: "connection refused",
    errno.EHOSTUNREACH: "no route to host",
    errno.ENETUNREACH: "network unreachable",
    errno.ETIMEDOUT: "connection timed out",
    errno.EACCES: "a firewall of this machine forbids it",
    errno.EPERM: "a firewall of this machine forbids it",
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address that a host may answer at."""

    address: str
    port: int
    family: int
    sockaddr: tuple[Any, ...]
    """As ``socket.connect`` takes it."""
    name: str
    """What was resolved to it: the name of the policy, or the target of an SRV record."""


_lookups: Lookups[tuple[Endpoint, ...]] = Lookups()


def dialled(host: Host) -> tuple[str, int]:
    """Name and port of what is dialled for *host*: its proxy, or what its URL or its address says.

    Not for a host with a ``service``.
    """
    if host.proxy is not None:
        return host.proxy.host, host.proxy.port
    if host.url:
        parts = urlsplit(host.url)
        return parts.hostname or "", parts.port or HTTPS_PORT
    return host.address, host.port


async def endpoints_of(host: Host) -> tuple[Endpoint, ...]:
    """Where *host* may be, in the order in which it is to be tried, never empty. UnreachableFault."""
    if not host.service:
        return await endpoints_of_name(*dialled(host))
    records = in_order(await service_records(host.service), random.random)[:MAXIMUM_TARGETS]
    outcomes = await asyncio.gather(
        *(endpoints_of_name(record.target, record.port) for record in records), return_exceptions=True)
    found: dict[Endpoint, None] = {}
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            if not isinstance(outcome, UnreachableFault):
                raise outcome
        else:
            found |= dict.fromkeys(outcome)
    if not found:
        raise UnreachableFault("; ".join(dict.fromkeys(str(outcome) for outcome in outcomes)))
    return tuple(found)


async def endpoints_of_name(name: str, port: int) -> tuple[Endpoint, ...]:
    """The addresses of *name* (or *name*, if it is one), in the order of RFC 6724. UnreachableFault."""
    try:
        if is_literal(name):
            return _look_up(name, port)
        return await _lookups.ask((name, port), lambda: in_thread(
            f"resolve {name}", lambda: _look_up(name, port), deadline=ABANDONED_AFTER), RESOLVE_DEADLINE)
    except socket.gaierror as error:
        raise UnreachableFault(f"cannot resolve {name}: {error.strerror}") from None
    except (TimeoutError, DeadlineFault):  # before OSError, of which TimeoutError is one
        raise UnreachableFault(f"cannot resolve {name}: no answer for {RESOLVE_DEADLINE:.0f} s") from None
    except (OSError, UnicodeError) as error:
        raise UnreachableFault(f"cannot resolve {name}: {error}") from None


def _look_up(name: str, port: int) -> tuple[Endpoint, ...]:
    found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return tuple(dict.fromkeys(
        Endpoint(str(sockaddr[0]), port, family, sockaddr, name) for family, _, _, _, sockaddr in found))


def is_literal(name: str) -> bool:
    """Whether *name* is an IP address, for which nobody needs to be asked."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


async def connect_to_first(endpoints: Sequence[Endpoint], *, deadline: float) -> socket.socket:
    """A non-blocking socket, connected to the first of *endpoints* that answers; none other stays open.

    UnreachableFault after *deadline* seconds or when all have failed, with each kind of failure once.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + deadline
    race = _Race(endpoints)
    try:
        while race.goes_on:
            race.start_next(loop.time())
            answered = await race.wait_until(min(end, race.next_start))
            if answered is not None:
                return answered
            if loop.time() >= end:
                race.failures[f"no answer for {deadline:.0f} s"] = None
                break
    finally:
        await race.end()
    raise UnreachableFault(", ".join(race.failures) or "no address to connect to")


class _Race:
    """The attempts that are under way, and those that are still to be started."""

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self.failures: dict[str, None] = {}
        self.next_start = 0.0
        self._left = deque(endpoints)
        self._tasks: dict[asyncio.Task[socket.socket], Endpoint] = {}

    @property
    def goes_on(self) -> bool:
        return bool(self._left or self._tasks)

    def start_next(self, now: float) -> None:
        """Starts the next attempt if it is its turn; ``next_start`` is the turn of the one after it."""
        if self._left and (not self._tasks or now >= self.next_start):
            endpoint = self._left.popleft()
            self._tasks[asyncio.ensure_future(_connect(endpoint))] = endpoint
            is_equal = bool(self._left) and self._left[0].name == endpoint.name
            self.next_start = now + (HEAD_START if is_equal else TARGET_HEAD_START)
        if not self._left:
            self.next_start = float("inf")

    async def wait_until(self, when: float) -> socket.socket | None:
        """The socket of the first that answered until then. A failure is noted, and the next one's turn."""
        loop = asyncio.get_running_loop()
        done, _ = await asyncio.wait(
            self._tasks, timeout=max(0.0, when - loop.time()), return_when=asyncio.FIRST_COMPLETED)
        for task in [task for task in self._tasks if task in done]:
            error = task.exception()
            if error is None:
                del self._tasks[task]
                return task.result()
            endpoint = self._tasks.pop(task)
            if not isinstance(error, OSError):
                raise error
            self.failures[_words(error)] = None
            if self._left and self._left[0].name == endpoint.name:
                self.next_start = loop.time()
        return None

    async def end(self) -> None:
        """Whoever is still under way is sent home."""
        for task in self._tasks:
            task.add_done_callback(_close)
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)


async def _connect(endpoint: Endpoint) -> socket.socket:
    candidate = socket.socket(
        endpoint.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        await asyncio.get_running_loop().sock_connect(candidate, endpoint.sockaddr)
    except BaseException:
        candidate.close()
        raise
    return candidate


def _close(task: asyncio.Task[socket.socket]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()


def _words(error: OSError) -> str:
    number = error.errno or 0
    return _WORDS.get(number, os.strerror(number).lower())
