"""The HTTP proxy of a host's entry. Its password is for the proxy alone: nothing here ever shows it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

from usbip_agent.policy.values import host_address, port_number

MAXIMUM_URL = 1024

_USUAL = "write http://host:port or http://user:password@host:port"
_VISIBLE = re.compile(r"[!-~]+")
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_PLACE = re.compile(r"(?P<host>\[[^\]]+\]|[^:\[\]/?#]+):(?P<port>[0-9]+)/?")


@dataclass(frozen=True, slots=True)
class Proxy:
    """Where an HTTP proxy listens, and what it wants to be told. As text it has no password."""

    host: str
    port: int
    user: str | None = None
    """None = the proxy asks for no credentials."""
    password: str = field(default="", repr=False)

    def __str__(self) -> str:
        """``http://user:***@proxy.example:3128``"""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{'' if self.user is None else f'{self.user}:***@'}{host}:{self.port}"


def proxy_url(text: str) -> Proxy:
    """``http://[user[:password]@]host:port``; user and password are percent-encoded UTF-8.

    ValueErrors leave out what was written: it may hold a password, in an unforeseen place too.
    """
    if text.lower().startswith("https://"):
        raise ValueError("a proxy is spoken to by HTTP (the TLS goes through it): write http://")
    if not text.startswith("http://") or not _VISIBLE.fullmatch(text) or len(text) > MAXIMUM_URL:
        raise ValueError(f"no URL of a proxy: {_USUAL}, in up to {MAXIMUM_URL} characters without blanks")
    credentials, at, place = text.removeprefix("http://").rpartition("@")
    found = _PLACE.fullmatch(place)
    if found is None:
        raise ValueError(f"no URL of a proxy: {_USUAL}; the port is never implied")
    try:
        host = host_address(found["host"].strip("[]"))
        port = port_number(found["port"])
    except ValueError:
        raise ValueError(f"the host or the port is none: {_USUAL}") from None
    if not at:
        return Proxy(host, port)
    user, _, password = credentials.partition(":")
    return Proxy(host, port, _decoded(user), _decoded(password))


def _decoded(text: str) -> str:
    if _BROKEN_ESCAPE.search(text) or re.search("[/?#@]", text):
        raise ValueError("in user and password, write %25 for %, %2F for /, %3F for ?, %23 for #, %40 for @")
    try:
        decoded = unquote_to_bytes(text).decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("user or password is not UTF-8 once its % escapes are resolved") from None
    if not decoded.isprintable():
        raise ValueError("a control character has no place in user or password")
    return decoded
