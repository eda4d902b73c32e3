"""The one line that is pasted: where the host is, how to know it, and the secret that lets one node in.

``usbip1-`` and base64url of: flags, port, secret, fingerprint, three texts with their lengths, CRC-32. The
CRC tells a slip of the mouse from a wrong code.
"""

from __future__ import annotations

import base64
import binascii
import struct
import zlib
from dataclasses import dataclass, field
from typing import Final

from usbip_agent.errors import UsageFault
from usbip_agent.identity.codes import SECRET_BYTES
from usbip_agent.transport.fingerprint import PREFIX as SHA256, fingerprint_bytes
from usbip_agent.policy.values import host_address, system_name, wss_url
from usbip_agent.text import printable

PREFIX: Final = "usbip1-"
LONGEST: Final = 4096

_FAMILY: Final = "usbip"
_WSS: Final = 1
_FIXED: Final = struct.Struct(f"!BH{SECRET_BYTES}s32s")
_LENGTH: Final = struct.Struct("!H")
_CRC: Final = struct.Struct("!I")

_AGAIN: Final = "copy the whole line that usbipa enroll printed"


@dataclass(frozen=True, slots=True)
class JoinCode:
    """What a join code says. With *url* (``wss://…``) *address* is empty and *port* 0; else the reverse."""

    address: str
    port: int
    fingerprint: str
    """Of the host's certificate."""
    secret: bytes = field(repr=False)
    node: str
    """What the host will call the node."""
    host: str
    """What the host calls itself: the name for its entry on the node."""
    url: str = ""

    @property
    def where(self) -> str:
        """``lab.example.net:3240``, ``[2001:db8::7]:3240`` or the URL."""
        if self.url:
            return self.url
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"

    def __post_init__(self) -> None:
        """ValueError for what no code may say."""
        if self.url:
            wss_url(self.url)
        else:
            host_address(self.address)
        port_fits = self.port == 0 if self.url else 0 < self.port < 65536
        if bool(self.url) == bool(self.address) or not port_fits:
            raise ValueError("an address and a port, or a URL")
        if len(self.secret) != SECRET_BYTES:
            raise ValueError(f"a secret has {SECRET_BYTES} bytes")
        fingerprint_bytes(self.fingerprint)
        system_name(self.node)
        system_name(self.host)


def encode(code: JoinCode) -> str:
    """The line to be pasted."""
    body = _FIXED.pack(_WSS if code.url else 0, code.port, code.secret, fingerprint_bytes(code.fingerprint))
    for text in (code.url or code.address, code.node, code.host):
        data = text.encode("ascii")
        body += _LENGTH.pack(len(data)) + data
    return PREFIX + base64.urlsafe_b64encode(body + _CRC.pack(zlib.crc32(body))).decode("ascii").rstrip("=")


def parse(text: str) -> JoinCode:
    """The code in *text*; blanks and line breaks, which terminals put in, do not matter. UsageFault."""
    if len(text) > LONGEST:
        raise UsageFault("this is too long for a join code", hint=_AGAIN)
    text = "".join(text.split())
    if not text.startswith(PREFIX):
        raise _no_code(text)
    data = _decoded(text.removeprefix(PREFIX))
    body, crc = data[:-_CRC.size], data[-_CRC.size:]
    if len(body) < _FIXED.size or _CRC.pack(zlib.crc32(body)) != crc:
        raise _damaged()
    try:
        return _read(body)
    except (ValueError, struct.error) as error:
        # Its checksum holds: it was not mistyped but made so.
        raise UsageFault(f"the join code makes no sense: {printable(str(error), 120)}",
                         hint="is usbip-agent as new as usbipa on the host?") from None


def _no_code(text: str) -> UsageFault:
    version, dash, _ = text.partition("-")
    number = version.removeprefix(_FAMILY)
    if dash and version.startswith(_FAMILY) and number.isascii() and number.isdigit() and len(number) < 4:
        return UsageFault(f"a join code of version {number}, which this usbip-agent does not know",
                          hint="install the version that the host has")
    return UsageFault(f'this is no join code, which begins with "{PREFIX}"', hint=_AGAIN)


def _damaged() -> UsageFault:
    return UsageFault("the join code is damaged: something of it is missing or mistyped", hint=_AGAIN)


def _decoded(text: str) -> bytes:
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        raise _damaged() from None
    # Unused bits of the last character, characters of the other alphabet: one code, one spelling.
    if base64.urlsafe_b64encode(data).decode("ascii").rstrip("=") != text:
        raise _damaged()
    return data


def _read(body: bytes) -> JoinCode:
    flags, port, secret, digest = _FIXED.unpack_from(body)
    if flags & ~_WSS:
        raise ValueError("unknown flags")
    texts, offset = [], _FIXED.size
    for _ in range(3):
        [length] = _LENGTH.unpack_from(body, offset)
        offset += _LENGTH.size
        if offset + length > len(body):
            raise ValueError("a text is cut off")
        texts.append(body[offset:offset + length].decode("ascii"))
        offset += length
    if offset != len(body):
        raise ValueError("something follows it")
    where, node, host = texts
    url, address = (where, "") if flags & _WSS else ("", where)
    return JoinCode(address, port, SHA256 + digest.hex(), secret, node, host, url)
