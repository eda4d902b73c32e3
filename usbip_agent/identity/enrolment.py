"""The enrolment of a node, over TLS without a client certificate: one request, one reply.

Each is ``UJ 01 00``, the length of what follows (u32, big endian), and JSON. The node has made sure that it
talks to the host whose certificate its join code names; the secret is all that speaks for the node.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import struct
from collections.abc import Callable
from typing import Any, Final

from usbip_agent.errors import DeadlineFault, Fault, ProtocolFault, RefusedFault
from usbip_agent.identity.codes import CodeFault, Moment
from usbip_agent.identity.join_code import JoinCode
from usbip_agent.identity.registrar import Registrar
from usbip_agent.names import Journal
from usbip_agent.service import journal
from usbip_agent.text import printable
from usbip_agent.transport.stream import Stream, receive_exactly, send_all

log = logging.getLogger(__name__)

MAGIC: Final = b"UJ\x01\x00"
"""No USB/IP request begins so: those begin with a version, 0x0111."""

LARGEST: Final = 16 * 1024
DEADLINE: Final = 10.0
"""Seconds for the request to arrive, and again for the reply to be taken."""

PATIENCE: Final = 90.0
"""Seconds that a node waits for the answer: the host may check other nodes' certificates first."""

NOT_VALID: Final = "the join code is not valid"
"""What every peer with a bad secret hears. Why is for the log."""

_HEADER: Final = struct.Struct("!4sI")
_LONGEST_REASON: Final = 300


def encode_message(content: dict[str, Any]) -> bytes:
    """*content* as it goes over the wire. ValueError when it is too large."""
    data = json.dumps(content, separators=(",", ":")).encode("ascii")
    if len(data) > LARGEST:
        raise ValueError(f"more than {LARGEST} bytes")
    return _HEADER.pack(MAGIC, len(data)) + data


def decode_header(header: bytes) -> int:
    """How many bytes follow. ProtocolFault."""
    magic, length = _HEADER.unpack(header)
    if magic != MAGIC:
        raise ProtocolFault("this is no enrolment")
    if not 0 < length <= LARGEST:
        raise ProtocolFault(f"an enrolment of {length} bytes (at most {LARGEST})")
    return int(length)


def decode_content(data: bytes) -> dict[str, Any]:
    """The content of a message. ProtocolFault."""
    try:
        content = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        raise ProtocolFault("an enrolment that is no JSON") from None
    if not isinstance(content, dict):
        raise ProtocolFault("an enrolment that is no JSON object")
    return content


def encode_request(node: str, secret: bytes, certificate_pem: str) -> bytes:
    """What a node sends."""
    return encode_message({"node": node, "secret": base64.urlsafe_b64encode(secret).decode("ascii"),
                           "certificate": certificate_pem})


def decode_request(content: dict[str, Any]) -> tuple[str, bytes, str]:
    """Node, secret and certificate of a request; the last may still be anything. ProtocolFault."""
    node, secret, certificate = (content.get(key) for key in ("node", "secret", "certificate"))
    if not isinstance(node, str) or not isinstance(secret, str) or not isinstance(certificate, str):
        raise ProtocolFault("an enrolment without node, secret or certificate")
    try:
        return node, base64.urlsafe_b64decode(secret.encode("ascii")), certificate
    except ValueError:
        raise ProtocolFault("an enrolment whose secret is no base64") from None


async def request_enrolment(stream: Stream, code: JoinCode, certificate_pem: str) -> None:
    """Enrols us with *certificate_pem* at the host at the other end of *stream*, which stays the caller's.

    RefusedFault with the host's words; ProtocolFault, DeadlineFault.
    """
    try:
        async with asyncio.timeout(PATIENCE):
            await send_all(stream.socket, encode_request(code.node, code.secret, certificate_pem))
            reply = await _receive(stream)
    except TimeoutError:
        raise DeadlineFault(f"{code.where} has not answered for {PATIENCE:.0f} s") from None
    if reply.get("ok") is not True:
        why = printable(str(reply.get("error") or "it does not say why"), _LONGEST_REASON)
        raise RefusedFault(f"{code.where} refuses to enrol this node: {why}",
                           hint=f"on the host, usbipa enroll {code.node} prints another code")


async def serve_enrolment(stream: Stream, registrar: Registrar,
                          now: Callable[[], Moment] = Moment.now, *, deadline: float = DEADLINE) -> None:
    """Reads a request from *stream*, which stays the caller's, and answers it. Never raises a Fault."""
    node = ""
    try:
        registrar.check_rate(stream.address, now())
        async with asyncio.timeout(deadline):
            request = await _receive(stream)
        claimed, secret, certificate = decode_request(request)
        node = printable(claimed, 64)
        await registrar.admit(claimed, secret, certificate, stream.address, now)
    except TimeoutError:
        _note(logging.WARNING, stream, node, DeadlineFault(f"no whole enrolment within {deadline:g} s"))
        return
    except Fault as fault:
        _note(logging.WARNING, stream, node, fault)
        await _answer(stream, {"ok": False, "error": _told(fault)}, deadline)
        return
    _note(logging.INFO, stream, node)
    await _answer(stream, {"ok": True, "host": registrar.host}, deadline)


def _told(fault: Fault) -> str:
    """What the peer hears of *fault*: of our disk and our codes, nothing."""
    if isinstance(fault, CodeFault):
        return NOT_VALID
    if isinstance(fault, RefusedFault | ProtocolFault):
        return printable(str(fault), _LONGEST_REASON)
    return "the host cannot enrol anybody now, its journal says why"


async def _answer(stream: Stream, reply: dict[str, Any], deadline: float) -> None:
    try:
        async with asyncio.timeout(deadline):
            await send_all(stream.socket, encode_message(reply))
    except (TimeoutError, Fault) as error:
        log.info("%s: gone before it had its answer: %s", stream.peer, error or "it does not read")


async def _receive(stream: Stream) -> dict[str, Any]:
    length = decode_header(await receive_exactly(stream.socket, _HEADER.size))
    return decode_content(await receive_exactly(stream.socket, length))


def _note(level: int, stream: Stream, node: str, fault: Fault | None = None) -> None:
    who = f"node {node}" if node else "a node"
    what = f"refused to enrol {who} from {stream.peer}: {fault}" if fault else f"enrolled {who}"
    journal.transition(log, level, what, {
        Journal.NODE: node, Journal.PEER: stream.peer, Journal.STATE: "rejected" if fault else "enrolled",
        Journal.REASON: str(fault or ""), Journal.CODE: fault.code if fault else "",
    })
