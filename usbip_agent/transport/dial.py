"""Dialling out to a host: name, addresses, connection."""

from __future__ import annotations

import asyncio
import errno
import os
import socket

from usbip_agent.errors import DeadlineFault, UnreachableFault
from usbip_agent.blocking import in_thread
from usbip_agent.policy.hosts import Host
from usbip_agent.policy.transports import Transport
from usbip_agent.transport.stream import DEAD_AFTER, Stream, plain_stream, tune

CONNECT_DEADLINE = 10.0
"""Seconds for one address to answer."""

RESOLVE_DEADLINE = 10.0

_WORDS = {
    errno.ECONNREFUSED: "connection refused",
    errno.EHOSTUNREACH: "no route to host",
    errno.ENETUNREACH: "network unreachable",
    errno.ETIMEDOUT: "connection timed out",
    errno.EACCES: "a firewall of this machine forbids it",
}


async def dial(host: Host) -> Stream:
    """A stream to *host* over its transport. UnreachableFault with the reason of the last address."""
    if host.transport is not Transport.PLAIN:
        raise UnreachableFault(f"transport {host.transport} is not available")
    connected = await connect(host.address, host.port)
    tune(connected, DEAD_AFTER)
    return plain_stream(connected)


async def connect(name: str, port: int) -> socket.socket:
    """A non-blocking TCP socket to the first address of *name* that answers. UnreachableFault."""
    fault = UnreachableFault(f"{name} has no address")
    for family, address in await resolve(name, port):
        candidate = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            async with asyncio.timeout(CONNECT_DEADLINE):
                await asyncio.get_running_loop().sock_connect(candidate, address)
            return candidate
        except TimeoutError:
            fault = UnreachableFault(f"no answer for {CONNECT_DEADLINE:.0f} s")
        except OSError as error:
            fault = UnreachableFault(_words(error))
        except asyncio.CancelledError:
            candidate.close()
            raise
        candidate.close()
    raise fault


async def resolve(name: str, port: int) -> list[tuple[int, tuple[str, int]]]:
    """Family and socket address of each address of *name*, in the resolver's order. UnreachableFault."""
    try:
        found = await in_thread(
            f"resolve {name}", lambda: socket.getaddrinfo(name, port, type=socket.SOCK_STREAM),
            deadline=RESOLVE_DEADLINE)
    except socket.gaierror as error:
        raise UnreachableFault(f"cannot resolve {name}: {error.strerror}") from None
    except (OSError, UnicodeError) as error:
        raise UnreachableFault(f"cannot resolve {name}: {error}") from None
    except DeadlineFault:
        raise UnreachableFault(f"cannot resolve {name}: no answer for {RESOLVE_DEADLINE:.0f} s") from None
    return [(entry[0], entry[4]) for entry in found]  # type: ignore[misc]


def _words(error: OSError) -> str:
    number = error.errno or 0
    return _WORDS.get(number, os.strerror(number).lower())
