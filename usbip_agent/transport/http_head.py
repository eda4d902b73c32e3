"""The head of an HTTP response: bytes → status and headers. No I/O.

As much HTTP as it takes to understand a proxy's yes or no. What stands after the blank line is not touched:
behind a proxy's yes it belongs to somebody else.
"""

from __future__ import annotations

import http
import re
from dataclasses import dataclass

from usbip_agent.errors import ProtocolFault
from usbip_agent.text import printable

MAXIMUM_HEAD = 16 * 1024

_END = re.compile(rb"\r?\n\r?\n")
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})(?: [^\x00-\x08\x0a-\x1f\x7f]*)?")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")
_BEGINNING = b"HTTP/1."


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """What a server answered, without the body. *headers* are (lower-case name, value), in their order."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def shown(self) -> str:
        """``502 Bad Gateway``, in the standard's words: a server's own are foreign text."""
        try:
            return f"{self.status} {http.HTTPStatus(self.status).phrase}"
        except ValueError:
            return str(self.status)

    @property
    def is_interim(self) -> bool:
        """Another head follows this one."""
        return self.status < 200 and self.status != http.HTTPStatus.SWITCHING_PROTOCOLS

    def all(self, name: str) -> list[str]:
        """Every value of the header *name* (in lower case), fit to be shown."""
        return [value for each, value in self.headers if each == name]


def end_of_head(data: bytes | bytearray) -> int | None:
    """Where the head at the beginning of *data* ends; None = not in these bytes.

    ProtocolFault as soon as it can become none, so that nobody waits for the rest.
    """
    if not data[:len(_BEGINNING)] == _BEGINNING[:len(data)]:
        raise ProtocolFault("an answer that is no HTTP")
    found = _END.search(data, 0, MAXIMUM_HEAD)
    if found is None and len(data) >= MAXIMUM_HEAD:
        raise ProtocolFault(f"an HTTP answer of more than {MAXIMUM_HEAD // 1024} KiB before its body")
    return found.end() if found else None


def parse_head(head: bytes | bytearray) -> ResponseHead:
    """The head that ``end_of_head`` found. ProtocolFault."""
    first, *lines = [line.removesuffix(b"\r") for line in bytes(head).split(b"\n")]
    status = _STATUS.fullmatch(first)
    headers = [_HEADER.fullmatch(line) for line in lines if line]
    if status is None or None in headers:
        raise ProtocolFault("an answer that is no HTTP")
    return ResponseHead(int(status[1]), tuple(
        (each[1].decode("ascii").lower(), printable(each[2].decode("utf-8", "replace").strip()))
        for each in headers if each))
