"""How a connection travels, as both configurations say it."""

from __future__ import annotations

from enum import StrEnum


class Transport(StrEnum):
    """How the device side dials a host. Plain is never implied."""

    TLS = "tls"
    WSS = "wss"
    PLAIN = "plain"


class ListenerTransport(StrEnum):
    """What a listener of the application side takes; ``ws`` is a WebSocket with TLS inside it."""

    TLS = "tls"
    WS = "ws"
    PLAIN = "plain"
