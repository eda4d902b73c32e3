"""From a host of the policy to its addresses: one, several of both families, or all that SRV records name."""

from __future__ import annotations

import asyncio
import ipaddress
import random
import socket
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from usbip_agent.blocking import in_thread
from usbip_agent.errors import DeadlineFault, UnreachableFault
from usbip_agent.policy.hosts import Host
from usbip_agent.transport.lookups import Lookups
from usbip_agent.transport.services import ServiceRecord, in_order, service_records

RESOLVE_DEADLINE = 10.0
"""Seconds that somebody waits for the addresses of a name."""

ABANDONED_AFTER = 180.0
"""Seconds after which a lookup that hangs is no longer waited for by new askers."""

MAXIMUM_TARGETS = 16
HTTPS_PORT = 443


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
    records = await targets_of(host.service)
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


async def targets_of(service: str) -> list[ServiceRecord]:
    """The SRV records of *service*, in the order in which they are to be tried. UnreachableFault."""
    return in_order(await service_records(service), random.random)[:MAXIMUM_TARGETS]


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
