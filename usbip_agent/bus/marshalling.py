"""Bytes ↔ messages: the only module that imports dbus-next, and all that is used of it is its marshaller.

dbus-next's own connection is left aside. On it, one message that it cannot parse ends the connection; an
authentication that the bus breaks off spins for ever; tracebacks go to callers; and every local user can make
the daemon grow, with messages of 32 MiB or with signatures never seen before, each of which is kept for good.
"""

from __future__ import annotations

import importlib.util
import io
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from typing import Any

log = logging.getLogger(__name__)


def _import_marshaller() -> tuple[Any, Any, Any, Any]:
    """dbus_next's message, constants, signature and unmarshaller, without all else that the package imports.

    ``import dbus_next`` pulls in GLib's binding where python3-gi is installed, proxies, ElementTree: 5.5 MB
    resident against 0.4 MB. So its modules are loaded below a package object whose ``__init__`` never ran.
    """
    borrowed = "dbus_next" not in sys.modules
    if borrowed:
        specification = importlib.util.find_spec("dbus_next")
        if specification is None:
            raise ImportError("dbus-next is not installed (apt install python3-dbus-next)")
        sys.modules["dbus_next"] = importlib.util.module_from_spec(specification)
    try:
        # The order matters: message and errors import each other.
        import dbus_next.errors
        import dbus_next.constants
        import dbus_next.message
        import dbus_next.signature
        import dbus_next._private.unmarshaller
        return (dbus_next.message.Message, dbus_next.constants, dbus_next.signature,
                dbus_next._private.unmarshaller.Unmarshaller)
    finally:
        if borrowed:
            # Whoever else imports dbus_next gets the whole package, with these very modules in it.
            del sys.modules["dbus_next"]


_Message, _constants, _signature, _Unmarshaller = _import_marshaller()

SIGNATURES_KEPT = 256
"""Parsed signatures that dbus-next may cache. We use some twenty ourselves; callers choose theirs freely."""

_HEADER = 16
_LITTLE_ENDIAN, _BIG_ENDIAN = b"l"[0], b"B"[0]


class Kind(IntEnum):
    """Message types of the D-Bus specification."""

    CALL = 1
    RETURN = 2
    ERROR = 3
    SIGNAL = 4


class Flag(IntFlag):
    """Message flags of the D-Bus specification."""

    NONE = 0
    NO_REPLY_EXPECTED = 1
    NO_AUTO_START = 2


@dataclass(frozen=True, slots=True)
class Message:
    """One D-Bus message. Absent header fields are empty. Variants in *body* are what ``variant`` makes."""

    kind: Kind
    path: str = ""
    interface: str = ""
    member: str = ""
    destination: str = ""
    sender: str = ""
    error_name: str = ""
    reply_serial: int = 0
    flags: int = 0
    signature: str = ""
    body: list[Any] = field(default_factory=list)
    serial: int = 0


def variant(signature: str, value: Any) -> Any:
    """A D-Bus variant. ``.signature`` and ``.value`` give back what it holds."""
    return _signature.Variant(signature, value)


def plain(value: Any) -> Any:
    """*value* from a message's body with every variant in it replaced by what it holds."""
    if isinstance(value, _signature.Variant):
        return plain(value.value)
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    return value


def encode(message: Message) -> bytes:
    """The bytes of *message*. Raises ValueError or TypeError where body and signature disagree."""
    return bytes(_Message(
        destination=message.destination or None,
        path=message.path or None,
        interface=message.interface or None,
        member=message.member or None,
        message_type=_constants.MessageType(message.kind),
        flags=_constants.MessageFlag(message.flags),
        error_name=message.error_name or None,
        reply_serial=message.reply_serial or None,
        signature=message.signature,
        body=message.body,
        serial=message.serial,
    )._marshall())


def _decode(frame: bytes) -> Message:
    parsed = _Unmarshaller(io.BytesIO(frame)).unmarshall()
    return Message(
        kind=Kind(parsed.message_type.value),
        path=parsed.path or "", interface=parsed.interface or "", member=parsed.member or "",
        destination=parsed.destination or "", sender=parsed.sender or "",
        error_name=parsed.error_name or "", reply_serial=parsed.reply_serial or 0,
        flags=int(parsed.flags), signature=parsed.signature, body=parsed.body, serial=parsed.serial,
    )


class Framer:
    """Cuts what the bus sends into messages.

    A message longer than *limit* bytes, or one that dbus-next cannot read (an unknown header field or type,
    which the specification wants ignored; dbus-daemon 1.14 lets neither through), is dropped alone.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._skip = 0

    def feed(self, data: bytes) -> Iterator[Message]:
        """The messages that *data* completes. Raises ValueError when it is no D-Bus at all."""
        self._buffer += data
        while True:
            if self._skip:
                skipped = min(self._skip, len(self._buffer))
                del self._buffer[:skipped]
                self._skip -= skipped
            if self._skip or len(self._buffer) < _HEADER:
                return
            length = self._message_length()
            if length > self._limit:
                log.debug("dropped a message of %d bytes", length)
                self._skip = length
                continue
            if len(self._buffer) < length:
                return
            frame = bytes(self._buffer[:length])
            del self._buffer[:length]
            message = self._try_decode(frame)
            if message is not None:
                yield message

    def _message_length(self) -> int:
        if self._buffer[0] not in (_LITTLE_ENDIAN, _BIG_ENDIAN):
            raise ValueError("the bus sent something that is no D-Bus message")
        order = "little" if self._buffer[0] == _LITTLE_ENDIAN else "big"
        body = int.from_bytes(self._buffer[4:8], order)  # type: ignore[arg-type]
        fields = int.from_bytes(self._buffer[12:16], order)  # type: ignore[arg-type]
        return _HEADER + (fields + 7 & ~7) + body

    @staticmethod
    def _try_decode(frame: bytes) -> Message | None:
        try:
            return _decode(frame)
        except Exception as problem:  # dbus-next raises anything here, AttributeError included
            # Not louder: a stranger could fill the journal.
            log.debug("dropped a message that does not parse: %r", problem)
            return None
        finally:
            if len(_signature.SignatureTree._cache) > SIGNATURES_KEPT:
                _signature.SignatureTree._cache.clear()
