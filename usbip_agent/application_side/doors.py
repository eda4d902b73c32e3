"""The ways into this house: plain, TLS or a WebSocket, told apart by their first bytes.

What a listener does not take is turned away before it costs more than a glance. Who comes through TLS without
a certificate may enrol, and do nothing else.
"""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, Protocol

from usbip_agent.errors import IdentityFault, ProtocolFault, RefusedFault
from usbip_agent.transport.fingerprint import fingerprint_of
from usbip_agent.policy.listeners import Listener
from usbip_agent.policy.transports import ListenerTransport
from usbip_agent.policy.values import system_name
from usbip_agent.service.clock import now_for_people
from usbip_agent.transport.stream import Stream, peek_exactly, plain_stream, tune
from usbip_agent.transport.tls import (
    Credentials, handshake, peer_certificate, peer_common_name, server_context, stream_over,
)

log = logging.getLogger(__name__)

GLANCE = 2
"""Bytes that tell the transports apart."""


class Guests(Protocol):
    """Who is known here (``identity.nodes.KnownNodes``)."""

    @property
    def generation(self) -> int:
        """Another number whenever somebody was enrolled or revoked."""

    def certificates(self) -> str:
        """Those of all enrolled nodes, PEM after PEM."""

    def name_of(self, fingerprint: str) -> str | None:
        """The node that enrolled with this certificate."""

    def seen(self, name: str, peer: str, now: int) -> None:
        """Notes that a node came, *now* in microseconds since the epoch."""


def transport_of(first_bytes: bytes) -> ListenerTransport:
    """What begins like this. ProtocolFault for what is none of them."""
    match first_bytes:
        case b"\x16\x03":  # a record of type handshake, version 3.x (RFC 8446, 5.1)
            return ListenerTransport.TLS
        case b"GE":
            return ListenerTransport.WS
        case b"\x01\x11":
            return ListenerTransport.PLAIN
    raise ProtocolFault(f"it begins with {first_bytes.hex()}: neither USB/IP nor TLS nor a WebSocket")


class Who(NamedTuple):
    """Who is at the other end."""

    node: str | None = None
    """The authenticated name."""
    certificate: str = ""
    """Fingerprint of the certificate that *node* has enrolled with; empty where a CA, or nobody, vouches."""


@dataclass(slots=True)
class Doors:
    """Makes a stream of an accepted connection. ``dead_after`` says, in seconds, when a link is dead."""

    own: Credentials | None
    guests: Guests
    dead_after: Callable[[], float]
    _contexts: dict[tuple[Credentials, Path | None], tuple[object, ssl.SSLContext]] = field(
        default_factory=dict)
    """For each set of files: what the context was made of, and the context."""

    async def establish(self, connection: socket.socket, listener: Listener) -> Stream:
        """The stream over *connection*, by the transport it speaks.

        RefusedFault when *listener* does not take that transport or the peer is not known, ProtocolFault when
        it speaks something else. The caller sets the deadline, and closes *connection* when this fails.
        """
        transport = transport_of(await peek_exactly(connection, GLANCE))
        if transport not in listener.transports:
            taken = ", ".join(sorted(listener.transports))
            raise RefusedFault(f"a {transport} connection, but this listener takes {taken} only")
        tune(connection, self.dead_after())
        match transport:
            case ListenerTransport.TLS:
                stream, who = await self._through_tls(connection, listener)
            case ListenerTransport.WS:
                stream, who = await self._through_websocket(connection, listener)
            case ListenerTransport.PLAIN:
                return plain_stream(connection)
        if who.node is not None:
            self.guests.seen(who.node, stream.peer, now_for_people())
        return replace(stream, node=who.node, certificate=who.certificate)

    async def _through_tls(self, connection: socket.socket, listener: Listener) -> tuple[Stream, Who]:
        tls = await handshake(connection, self._context(listener), server_side=True)
        try:
            who = self._who(peer_certificate(tls), peer_common_name(tls.getpeercert()), listener)
            return await stream_over(tls, who.node), who
        except BaseException:
            tls.close()
            raise

    async def _through_websocket(
            self, connection: socket.socket, listener: Listener) -> tuple[Stream, Who]:
        from usbip_agent.transport.websocket_accept import accept_websocket  # costs memory, and few need it

        return await accept_websocket(
            connection, self._context(listener),
            lambda certificate, names: self._who(certificate, peer_common_name(names), listener),
            dead_after=self.dead_after())

    def _who(self, certificate: bytes | None, common_name: str, listener: Listener) -> Who:
        """Who shows *certificate*; nobody without one. RefusedFault when nobody vouches for it."""
        if certificate is None:
            return Who()
        fingerprint = fingerprint_of(certificate)
        enrolled = self.guests.name_of(fingerprint)
        if enrolled is not None:
            return Who(enrolled, fingerprint)
        if listener.ca is not None and common_name:
            try:
                return Who(system_name(common_name))
            except ValueError as error:
                raise RefusedFault(f"the name in its certificate is no node's: {error}") from None
        raise RefusedFault("its certificate is not that of an enrolled node")

    def _context(self, listener: Listener) -> ssl.SSLContext:
        """The listener's context, made anew when somebody was enrolled or revoked, or a file was renewed.

        While the files do not fit together, as in the midst of a renewal, it stays what it was. A new key
        needs a new certificate, so the key is not looked at for itself.
        """
        own = self.own
        if listener.certificate is not None and listener.key is not None:
            own = Credentials(listener.certificate, listener.key)
        if own is None:
            raise RefusedFault("this host has no certificate of its own; see the start of its journal")
        files = own, listener.ca
        made_of = self.guests.generation, _version_of(own.certificate), _version_of(listener.ca)
        before, context = self._contexts.get(files, (None, None))
        if context is None or before != made_of:
            try:
                context = server_context(own, self.guests.certificates(), listener.ca)
            except IdentityFault as fault:
                if context is None:
                    raise
                log.error("what was there before is still in use: %s", fault)
            else:
                self._contexts[files] = made_of, context
        return context


def _version_of(file: Path | None) -> object:
    """Another value whenever *file* was written or replaced; None while there is none."""
    try:
        found = file.stat() if file is not None else None
    except OSError:
        return None
    return found and (found.st_ino, found.st_ctime_ns)
