"""The WebSocket protocol: bytes ↔ payloads. No I/O; the library's own layer without I/O does the work.

That layer was renamed on its way from websockets 10 (Debian 12) to 15 (Debian 13); here is what both share.
The library is imported when the first WebSocket is made: most machines never make one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from http import HTTPStatus
from importlib import import_module
from typing import Any

from usbip_agent.errors import ProtocolFault, RefusedFault
from usbip_agent.text import printable
from usbip_agent.transport.http_head import MAXIMUM_HEAD

SUBPROTOCOL = "usbip"

MAXIMUM_SENT = 64 * 1024
MAXIMUM_RECEIVED = 1024 * 1024
"""Bytes of a frame's payload."""

MAXIMUM_REPLIES = 64 * 1024
"""Bytes of pongs that may wait for a peer that sends pings and does not read."""

NORMAL, POLICY_VIOLATION = 1000, 1008
_ORDERLY = (1000, 1001, 1005)
"""RFC 6455, section 7.4.1; 1005 = a close frame without a code."""

_CONTINUATION, _TEXT, _BINARY = 0, 1, 2

_BLANK_LINE = b"\r\n\r\n"

_Buffer = bytes | bytearray | memoryview

# What strangers do to a listener is told by our own journal lines, and not once more by the library.
_SILENCE = logging.Logger("websockets", logging.CRITICAL + 1)


class Frames:
    """One open WebSocket. What it has to say by itself (pongs, closing) collects in *replies*."""

    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol
        self.replies = bytearray()
        self.ended = False
        """The other end has closed; nothing comes any more."""

    def feed(self, data: _Buffer) -> list[_Buffer]:
        """The payloads that *data* completes. ProtocolFault on what no peer of ours sends; RefusedFault."""
        events = _fed(self._protocol, data)
        self._collect()
        if (error := self._protocol.parser_exc) is not None:
            raise ProtocolFault(f"no proper WebSocket: {printable(str(error))}")
        if len(self.replies) > MAXIMUM_REPLIES:
            raise ProtocolFault("a flood of WebSocket pings")
        payloads = []
        for frame in events:
            if frame.opcode == _TEXT:
                raise ProtocolFault("a WebSocket message in text, where all is binary")
            if frame.opcode in (_BINARY, _CONTINUATION) and frame.data:
                payloads.append(frame.data)
        if self._protocol.close_rcvd is not None:
            self.ended = True
            self._judge_close(self._protocol.close_rcvd)
        return payloads

    def binary(self, data: _Buffer) -> bytes:
        """The frame around *data*, at most MAXIMUM_SENT bytes. ProtocolFault when the WebSocket is closed."""
        return self._said(lambda: self._protocol.send_binary(data))

    def ping(self) -> None:
        """Adds a ping to *replies*. ProtocolFault when the WebSocket is closed."""
        self.replies += self._said(lambda: self._protocol.send_ping(b""))

    def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Adds a close frame to *replies*, unless there was one."""
        try:
            self.replies += self._said(lambda: self._protocol.send_close(code, reason))
        except ProtocolFault:
            pass

    def _said(self, say: Callable[[], object]) -> bytes:
        try:
            say()
        except Exception as error:
            raise ProtocolFault(f"the WebSocket is closed: {error}") from None
        return b"".join(self._protocol.data_to_send())

    def _collect(self) -> None:
        self.replies += b"".join(self._protocol.data_to_send())

    def _judge_close(self, close: Any) -> None:
        reason = printable(close.reason) or f"code {close.code}"
        if close.code == POLICY_VIOLATION:
            raise RefusedFault(f"refused: {reason}")
        if close.code not in _ORDERLY:
            raise ProtocolFault(f"the other side closed the WebSocket: {reason}")


class ClientHandshake:
    """Asks for a WebSocket: *request* is to be sent."""

    def __init__(self, url: str) -> None:
        make = _class("websockets.client", "ClientProtocol", "ClientConnection")
        uri = import_module("websockets.uri").parse_uri(url)
        self._protocol = make(uri, subprotocols=[SUBPROTOCOL], max_size=MAXIMUM_RECEIVED, logger=_SILENCE)
        self._protocol.send_request(self._protocol.connect())
        self.request: bytes = b"".join(self._protocol.data_to_send())

    def take(self, head: _Buffer) -> Frames:
        """The WebSocket that *head* promises: the answer with status 101, up to its blank line."""
        events = _fed(self._protocol, head)
        if (error := self._protocol.handshake_exc) is not None or not events:
            raise ProtocolFault(f"no WebSocket there: {_words(error)}")
        if self._protocol.subprotocol != SUBPROTOCOL:
            raise ProtocolFault("a WebSocket there, but not usbipa's")
        return Frames(self._protocol)


class ServerHandshake:
    """Answers whoever asks for a WebSocket. The path means nothing, nor does any header on who asks."""

    def __init__(self) -> None:
        make = _class("websockets.server", "ServerProtocol", "ServerConnection")
        self._protocol = make(subprotocols=[SUBPROTOCOL], max_size=MAXIMUM_RECEIVED, logger=_SILENCE)
        self._request = bytearray()
        self.answer = b""
        """To be sent, also after a ProtocolFault."""

    def feed(self, data: _Buffer) -> Frames | None:
        """The WebSocket, once the request is whole. ProtocolFault when it asks for none."""
        self._request += data
        end = self._request.find(_BLANK_LINE, 0, MAXIMUM_HEAD)
        if end < 0:
            if len(self._request) >= MAXIMUM_HEAD:
                raise ProtocolFault(f"an HTTP request of more than {MAXIMUM_HEAD // 1024} KiB")
            return None
        if len(self._request) > end + len(_BLANK_LINE):
            raise ProtocolFault("bytes between the WebSocket request and its answer")
        events = _fed(self._protocol, self._request)
        if (error := self._protocol.handshake_exc) is not None or not events:
            raise ProtocolFault(f"no WebSocket request: {_words(error)}")
        response = self._protocol.accept(events[0])
        error = self._protocol.handshake_exc
        if error is None and self._protocol.subprotocol != SUBPROTOCOL:
            error = ProtocolFault(f"no subprotocol {SUBPROTOCOL}")
            response = self._protocol.reject(HTTPStatus.BAD_REQUEST, f"{error}\n")
        self._protocol.send_response(response)
        self.answer = b"".join(self._protocol.data_to_send())
        if error is not None:
            raise ProtocolFault(f"no WebSocket request of ours: {_words(error)}")
        return Frames(self._protocol)


def _class(module: str, name: str, old_name: str) -> Any:
    found = import_module(module)
    return getattr(found, name, None) or getattr(found, old_name)


def _words(error: BaseException | None) -> str:
    """The library's, or of what its error came from."""
    return printable(str(error and (error.__cause__ or error) or "nothing whole"))


def _fed(protocol: Any, data: _Buffer) -> list[Any]:
    try:
        protocol.receive_data(data)
    except Exception as error:
        raise ProtocolFault(f"no proper WebSocket: {printable(str(error) or type(error).__name__)}") from None
    events: list[Any] = protocol.events_received()
    return events
