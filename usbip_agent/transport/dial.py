"""Dialling out to a host: by its transport, through its proxy, to who it must be."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass

from usbip_agent.blocking import in_thread
from usbip_agent.errors import DeadlineFault, RefusedFault, UnreachableFault
from usbip_agent.identity.fingerprint import fingerprint_of
from usbip_agent.policy.hosts import Host
from usbip_agent.policy.transports import Transport
from usbip_agent.transport.http_proxy import connect_through
from usbip_agent.transport.stream import Stream, plain_stream, tune
from usbip_agent.transport.tls import (
    HOW_TO_ENROL, Credentials, client_context, handshake, peer_certificate, stream_over,
)

CONNECT_DEADLINE = 10.0
"""Seconds for one address to answer."""

RESOLVE_DEADLINE = 10.0

HANDSHAKE_DEADLINE = 10.0
"""Seconds for TLS, and for all that a WebSocket needs before it."""

_WORDS = {
    errno.ECONNREFUSED: "connection refused",
    errno.EHOSTUNREACH: "no route to host",
    errno.ENETUNREACH: "network unreachable",
    errno.ETIMEDOUT: "connection timed out",
    errno.EACCES: "a firewall of this machine forbids it",
}


@dataclass(frozen=True, slots=True)
class Dialler:
    """Dials hosts as one node."""

    own_credentials: Callable[[], Credentials | None]
    """This node's certificate and key, where the host's entry names none. IdentityFault when damaged."""

    async def __call__(self, host: Host) -> Stream:
        """A stream to *host*, which is who it must be. UnreachableFault, RefusedFault, ProtocolFault, …"""
        match host.transport:
            case Transport.PLAIN:
                return plain_stream(await self._connect(host))
            case Transport.TLS:
                return await self._dial_tls(host)
            case Transport.WSS:
                return await self._dial_websocket(host)

    async def _connect(self, host: Host) -> socket.socket:
        if host.proxy is not None:
            connected = await connect_through(host.proxy, host.address, host.port, connect)
        else:
            connected = await connect(host.address, host.port)
        tune(connected, host.dead_after)
        return connected

    async def _dial_tls(self, host: Host) -> Stream:
        _require_pin(host)
        context = client_context(self._credentials(host), host.ca)
        connected = await self._connect(host)
        try:
            async with asyncio.timeout(HANDSHAKE_DEADLINE):
                tls = await handshake(connected, context, server_hostname=host.address if host.ca else None)
        except TimeoutError:
            raise DeadlineFault(f"no TLS handshake for {HANDSHAKE_DEADLINE:.0f} s") from None
        try:
            require_pinned(host, peer_certificate(tls))
            return await stream_over(tls, host.name)
        except BaseException:
            tls.close()
            raise

    async def _dial_websocket(self, host: Host) -> Stream:
        from usbip_agent.transport.websocket_dial import dial_websocket  # costs memory, and few need it

        _require_pin(host)
        context = client_context(self._credentials(host), host.ca)
        try:
            async with asyncio.timeout(CONNECT_DEADLINE + HANDSHAKE_DEADLINE):
                return await dial_websocket(
                    host, context, lambda certificate: require_pinned(host, certificate), connect)
        except TimeoutError:
            raise DeadlineFault(f"no WebSocket for {HANDSHAKE_DEADLINE:.0f} s") from None

    def _credentials(self, host: Host) -> Credentials | None:
        if host.certificate is not None and host.key is not None:
            return Credentials(host.certificate, host.key)
        return self.own_credentials()


def _require_pin(host: Host) -> None:
    if not host.fingerprint and host.ca is None:
        raise RefusedFault(f"{host.name} is not known by certificate", hint=HOW_TO_ENROL)


def require_pinned(host: Host, certificate: bytes | None) -> None:
    """RefusedFault unless *certificate* (DER) is the one that *host* is pinned to; a CA's word is enough."""
    if host.ca is not None:
        return
    if certificate is None or fingerprint_of(certificate) != host.fingerprint:
        raise RefusedFault(
            "the host shows another certificate than the one pinned here",
            hint="somebody is in between, or the host was set up anew: then enrol this node again")


DIAL_TO_ENROL = Dialler(lambda: None)
"""Dials as nobody: the host lets such a one enrol, and nothing else."""


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
