"""Dialling out to a host: by its transport, through its proxy, to who it must be."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass

from usbip_agent.errors import DeadlineFault, RefusedFault, UnreachableFault
from usbip_agent.transport.fingerprint import fingerprint_of
from usbip_agent.policy.hosts import Host
from usbip_agent.policy.transports import Transport
from usbip_agent.transport.connecting import connect_to, connect_to_name
from usbip_agent.transport.http_proxy import connect_through
from usbip_agent.transport.stream import Stream, plain_stream, tune
from usbip_agent.transport.tls import (
    HOW_TO_ENROL, Credentials, client_context, handshake, peer_certificate, stream_over,
)

HANDSHAKE_DEADLINE = 10.0
"""Seconds for TLS."""

WEBSOCKET_DEADLINE = 20.0
"""Seconds for a WebSocket and all that it needs, from the name to the TLS inside."""


@dataclass(frozen=True, slots=True)
class Dialler:
    """Dials hosts as one node."""

    own_credentials: Callable[[], Credentials | None]
    """This node's certificate and key, where the host's entry names none. IdentityFault when damaged."""

    async def __call__(self, host: Host) -> Stream:
        """A stream to *host*, which is who it must be. UnreachableFault, RefusedFault, ProtocolFault, …"""
        try:
            match host.transport:
                case Transport.PLAIN:
                    return await self._dial_plain(host)
                case Transport.TLS:
                    return await self._dial_tls(host)
                case Transport.WSS:
                    return await self._dial_websocket(host)
        except OSError as error:  # of this machine, whose descriptors or memory have run out
            raise UnreachableFault((error.strerror or str(error)).lower()) from None

    async def _dial_plain(self, host: Host) -> Stream:
        connected = await self._connect(host)
        try:
            return plain_stream(connected)
        except BaseException:
            connected.close()
            raise

    async def _connect(self, host: Host) -> socket.socket:
        if host.proxy is not None:
            connected = await connect_through(host.proxy, host.address, host.port, connect_to_name)
        else:
            connected = await connect_to(host)
        tune(connected, host.dead_after)
        return connected

    async def _dial_tls(self, host: Host) -> Stream:
        _require_pin(host)
        context = client_context(self._credentials(host), host.ca)
        connected = await self._connect(host)
        try:
            async with asyncio.timeout(HANDSHAKE_DEADLINE):
                tls = await handshake(connected, context, server_hostname=_certified_name(host))
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
            async with asyncio.timeout(WEBSOCKET_DEADLINE):
                return await dial_websocket(
                    host, context, lambda certificate: require_pinned(host, certificate), connect_to_name)
        except TimeoutError:
            raise DeadlineFault(f"no WebSocket for {WEBSOCKET_DEADLINE:g} s") from None

    def _credentials(self, host: Host) -> Credentials | None:
        if host.certificate is not None and host.key is not None:
            return Credentials(host.certificate, host.key)
        return self.own_credentials()


def _certified_name(host: Host) -> str | None:
    """What a CA must vouch for: the name that stands in the configuration, whatever SRV records say of it."""
    if host.ca is None:
        return None
    return host.service.partition("._tcp.")[2] if host.service else host.address


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
