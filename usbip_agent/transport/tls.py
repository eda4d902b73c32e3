"""TLS whose records the kernel makes: mutual, pinned, verified to be offloaded before a byte of USB passes.

After the handshake OpenSSL hands its keys to the socket (kTLS); from then on the socket itself is encrypted
for whoever uses it, the kernel's USB/IP drivers among them. Without the kernel's ``tls`` module, or a
cipher's, OpenSSL silently stays in user space, and the same socket would carry USB in clear. So it is asked,
each time.

OpenSSL before 3.2 offloads both directions under TLS 1.2 only (Debian 12), later ones under TLS 1.3 too. The
preferred cipher is ChaCha20-Poly1305: a link lives for years with one key, which is more records than AES-GCM
is good for. Tickets are off: any record that is not data reaches the drivers as EIO, and ends the link.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from usbip_agent.errors import Fault, IdentityFault, ProtocolFault, RefusedFault
from usbip_agent.transport.relay import CHUNK, Buffer, start_relay
from usbip_agent.transport.stream import Stream, broken, plain_stream, shut_down

_SOL_TLS, _TLS_TX, _TLS_RX = 282, 1, 2
_CRYPTO_INFO_SIZE = 4
"""``struct tls_crypto_info`` (include/uapi/linux/tls.h). Asked for more, the kernel wants the exact size of
the cipher's own structure (net/tls/tls_main.c), and would show us its keys."""

_TLS_GET_RECORD_TYPE, _ALERT = 2, b"\x15"
"""How the kernel hands over a record that is not data (Documentation/networking/tls.rst; RFC 8446, 5.1)."""

_CERTIFICATE_EXPIRED = 45
_ABOUT_CERTIFICATES = {42, 43, 44, 46, 48, 49, 116}
"""Alerts (RFC 8446, 6)."""

_OP_ENABLE_KTLS = ssl.Options(8)
"""SSL_OP_ENABLE_KTLS; Python has a name for it from 3.12 on."""

_CIPHERS = "ECDHE+CHACHA20:ECDHE+AESGCM"

HOW_TO_ENROL = "enrol this node: 'usbipa enroll NODE' there, 'usbip-agent join CODE' here"

_WORDS = {
    "WRONG_VERSION_NUMBER": "the other side does not speak TLS on this port",
    "UNSUPPORTED_PROTOCOL": "the other side speaks no TLS version that is safe",
    "NO_SHARED_CIPHER": "the other side speaks no cipher that is safe",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the other side shows no certificate",
}
"""OpenSSL's reasons, in the words of an operator."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """A certificate and its key, as PEM files."""

    certificate: Path
    key: Path


def client_context(credentials: Credentials | None, ca: Path | None = None) -> ssl.SSLContext:
    """For dialling. Without *ca* the peer's certificate is not judged here but by its fingerprint, after.

    Without *credentials* we show no certificate, as for an enrolment. IdentityFault when a file is no good.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    _equip(context, credentials, ca)
    return context


def server_context(credentials: Credentials, trusted: str, ca: Path | None = None) -> ssl.SSLContext:
    """For accepting. *trusted* holds the certificates of the nodes that may come, PEM after PEM.

    Who shows no certificate is let in, to enrol and nothing else; who shows another is not.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_OPTIONAL
    setattr(context, "num_tickets", 0)  # not every typeshed knows it
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    _equip(context, credentials, ca)
    if trusted:
        context.load_verify_locations(cadata=trusted)
    return context


def _equip(context: ssl.SSLContext, credentials: Credentials | None, ca: Path | None) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ssl.OPENSSL_VERSION_INFO < (3, 2):
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | _OP_ENABLE_KTLS
    context.set_ciphers(_CIPHERS)
    try:
        if credentials is not None:
            context.load_cert_chain(credentials.certificate, credentials.key)
        if ca is not None:
            context.load_verify_locations(cafile=ca)
    except OSError as error:  # ssl.SSLError is one
        files = [str(credentials.certificate), str(credentials.key)] if credentials else []
        files += [str(ca)] if ca else []
        raise IdentityFault(f"{', '.join(files)}: {error.strerror or error}") from None


async def handshake(connected: socket.socket, context: ssl.SSLContext, *, server_side: bool = False,
                    server_hostname: str | None = None) -> ssl.SSLSocket:
    """TLS over *connected*, which is the SSLSocket's from now on, and closed when this fails.

    The caller sets the deadline. RefusedFault when certificates are not accepted, ProtocolFault otherwise.
    A step of it costs a millisecond of computing at most, so it runs on the event loop; it never waits there.
    """
    try:
        tls = context.wrap_socket(connected, server_side=server_side, do_handshake_on_connect=False,
                                  server_hostname=server_hostname)
    except OSError as error:
        connected.close()
        raise broken(error) from None
    try:
        while True:
            try:
                tls.do_handshake()
                return tls
            except ssl.SSLWantReadError:
                await _ready(tls, for_writing=False)
            except ssl.SSLWantWriteError:
                await _ready(tls, for_writing=True)
    except OSError as error:
        if server_side:
            await _let_it_hear(tls)
        tls.close()
        raise _fault_of(error) from None
    except BaseException:
        tls.close()
        raise


def peer_certificate(tls: ssl.SSLSocket) -> bytes | None:
    """The certificate that the other side has shown and proved to own, as DER."""
    return tls.getpeercert(binary_form=True)


def peer_common_name(names: Mapping[str, Any] | None) -> str:
    """The common name in what ``getpeercert`` says of a certificate that a CA has signed; empty without."""
    for part in (names or {}).get("subject", ()):
        for key, value in part:
            if key == "commonName":
                return str(value)
    return ""


async def stream_over(tls: ssl.SSLSocket, node: str | None) -> Stream:
    """The stream that the kernel may be given: the socket itself if the kernel encrypts, else a relay.

    ProtocolFault when the other side is gone already; then *tls* is still the caller's to close.
    """
    below = plain_stream(tls)
    if is_offloaded(tls):
        return replace(below, socket=socket.socket(fileno=tls.detach()), transport="tls", node=node)
    near_end, end_relay = await start_relay(_SslLink(tls))
    return replace(below, socket=near_end, transport="tls (relay)", node=node, end_relay=end_relay)


def is_offloaded(connected: socket.socket) -> bool:
    """Whether the kernel encrypts what is written to *connected*, and decrypts what is read from it."""
    try:
        for direction in (_TLS_TX, _TLS_RX):
            connected.getsockopt(_SOL_TLS, direction, _CRYPTO_INFO_SIZE)
    except OSError:
        return False
    return True


def objection(stream: Stream, fault: ProtocolFault) -> Fault:
    """What it means that a host we dialled has ended *stream* before its first answer, as *fault* says.

    Under TLS 1.3 it judges our certificate when our half of the handshake is over: a RefusedFault then.
    """
    if stream.transport == "plain":
        return fault
    alert = _alert_in(stream.socket)
    if alert == _CERTIFICATE_EXPIRED:
        return RefusedFault("the host says that this node's certificate has expired")
    if alert in _ABOUT_CERTIFICATES:
        return RefusedFault("the host does not know this node's certificate", hint=HOW_TO_ENROL)
    return RefusedFault(f"{fault.what}; it may not know this node's certificate", hint=HOW_TO_ENROL)


def _alert_in(connected: socket.socket) -> int | None:
    """The alert that waits in *connected*, whose records the kernel decrypts. To a plain read it is EIO."""
    try:
        data, ancillary, _, _ = connected.recvmsg(2, socket.CMSG_SPACE(1), socket.MSG_DONTWAIT)
    except OSError:
        return None
    is_alert = any(each[:2] == (_SOL_TLS, _TLS_GET_RECORD_TYPE) and each[2] == _ALERT for each in ancillary)
    return data[1] if is_alert and len(data) == 2 else None


class _SslLink:
    """A TLS connection that stays in user space, as the link of a relay."""

    def __init__(self, tls: ssl.SSLSocket) -> None:
        self._tls = tls
        self._buffer = memoryview(bytearray(CHUNK))

    async def receive(self) -> Buffer:
        while True:
            try:
                return self._buffer[:self._tls.recv_into(self._buffer)]
            except ssl.SSLWantReadError:
                await _ready(self._tls, for_writing=False)
            except ssl.SSLWantWriteError:
                await _ready(self._tls, for_writing=True)
            except OSError as error:
                raise _fault_of(error) from None

    async def send(self, data: Buffer) -> None:
        left = memoryview(data)
        while left:
            try:
                left = left[self._tls.send(left):]
            except ssl.SSLWantWriteError:
                await _ready(self._tls, for_writing=True)
            except ssl.SSLWantReadError:
                await _ready(self._tls, for_writing=False)
            except OSError as error:
                raise _fault_of(error) from None

    async def close(self) -> None:
        if self._tls.fileno() >= 0:
            shut_down(self._tls)
            self._tls.close()


async def _ready(tls: ssl.SSLSocket, *, for_writing: bool) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    descriptor = tls.fileno()
    (loop.add_writer if for_writing else loop.add_reader)(descriptor, wake)
    try:
        await ready
    finally:
        (loop.remove_writer if for_writing else loop.remove_reader)(descriptor)


async def _let_it_hear(tls: ssl.SSLSocket) -> None:
    """Gives the alert time to arrive: closing with bytes unread would reset the connection and drop it."""
    loop = asyncio.get_running_loop()
    try:
        below = socket.socket(fileno=os.dup(tls.fileno()))
    except OSError:
        return
    with below:
        try:
            below.setblocking(False)
            below.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(_HEARING):
                while await loop.sock_recv(below, 4096):
                    pass
        except (OSError, TimeoutError):
            pass  # it has gone, or does not go: either way it had its time


_HEARING = 1.0
"""Seconds."""


def _fault_of(error: OSError) -> Fault:
    if isinstance(error, ssl.SSLCertVerificationError):
        return RefusedFault(f"its certificate is not accepted: {error.verify_message}")
    if isinstance(error, ssl.SSLError):
        reason = error.reason or ""
        if "ALERT_UNKNOWN_CA" in reason or "ALERT_CERTIFICATE" in reason or "ALERT_BAD_CERT" in reason:
            return RefusedFault("the host does not know this node's certificate", hint=HOW_TO_ENROL)
        if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
            return ProtocolFault("the other side ended the TLS session")
        return ProtocolFault(_WORDS.get(reason, f"TLS: {reason.lower().replace('_', ' ') or error}"))
    return broken(error)
