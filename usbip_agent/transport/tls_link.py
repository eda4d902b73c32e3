"""TLS over any link, in memory: what the kernel cannot offload, inside a WebSocket or under one."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping
from typing import Any, cast

from usbip_agent.errors import Fault, ProtocolFault, RefusedFault
from usbip_agent.text import printable
from usbip_agent.transport.flushing import Flusher
from usbip_agent.transport.relay import CHUNK, Buffer, DuplexLink

PIECE = 60 * 1024
"""Bytes that are encrypted at once; the records around them stay below a WebSocket frame's 64 KiB."""

FAREWELL = 1.0
"""Seconds for a close_notify to leave."""


class TlsLink:
    """TLS over the link *below*. Faults name the other end as *peer*, and give *hint* when it refuses us."""

    def __init__(self, below: DuplexLink, context: ssl.SSLContext, *, server_side: bool = False,
                 server_hostname: str | None = None, peer: str = "the other side", hint: str = "") -> None:
        self._below = below
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_side, server_hostname=server_hostname)
        self._peer, self._hint = peer, hint
        self._buffer = memoryview(bytearray(CHUNK))
        self._flusher = Flusher(self._write_outgoing)
        self._is_torn = False
        self._has_ended = False
        self._fault: Fault | None = None
        self._closed = False

    @property
    def peer_certificate(self) -> bytes | None:
        """The other side's, as DER."""
        return self._tls.getpeercert(binary_form=True)

    @property
    def peer_names(self) -> Mapping[str, Any] | None:
        """What a CA has signed of it; empty when no CA was asked."""
        return self._tls.getpeercert()

    async def handshake(self) -> None:
        """RefusedFault over certificates, ProtocolFault over anything else. The caller sets the deadline."""
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self._flusher.flush()
                await self._take_more()
                if self._has_ended:
                    raise ProtocolFault(f"{self._peer} hung up in the TLS handshake") from None
            except ssl.SSLError as error:
                await self._flusher.flush_quietly()
                raise tls_fault(error, self._peer, self._hint) from None
        await self._flusher.flush()

    async def receive(self) -> Buffer:
        while True:
            if count := self._decrypt():
                return self._buffer[:count]
            if self._outgoing.pending:
                self._flusher.flush_soon()
            if self._fault is not None:
                raise self._fault
            if self._has_ended:
                return b""
            await self._take_more()

    async def send(self, data: Buffer) -> None:
        whole = memoryview(data)
        async with self._flusher.turn:
            for start in range(0, len(whole), PIECE):
                try:
                    self._tls.write(whole[start:start + PIECE])
                except ssl.SSLError as error:
                    raise self._fault or tls_fault(error, self._peer, self._hint) from None
                await self._write_outgoing()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            async with asyncio.timeout(FAREWELL):
                self._say_goodbye()
                await self._flusher.flush()
        except (Fault, TimeoutError):
            pass  # it has gone without hearing it
        finally:
            self._flusher.cancel()
            await self._below.close()

    def _say_goodbye(self) -> None:
        try:
            self._tls.unwrap()
        except (ssl.SSLError, ValueError):
            pass  # the other side's own close_notify is not waited for

    async def _take_more(self) -> None:
        data = await self._below.receive()
        if data:
            self._incoming.write(data)
        else:
            self._has_ended = True

    def _decrypt(self) -> int:
        """How many bytes are in the buffer now: of all records that have arrived, not of one."""
        # typeshed does not know that it takes any buffer, and gives a count then.
        read = cast(Callable[[int, memoryview], int], self._tls.read)
        filled = 0
        try:
            while filled < len(self._buffer):
                count = read(len(self._buffer) - filled, self._buffer[filled:])
                if not count:
                    self._has_ended = True
                    break
                filled += count
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            self._has_ended = True
        except ssl.SSLError as error:
            self._fault = tls_fault(error, self._peer, self._hint)
        return filled

    async def _write_outgoing(self) -> None:
        while self._outgoing.pending:
            if self._is_torn:
                raise ProtocolFault("the connection broke")
            self._is_torn = True
            await self._below.send(self._outgoing.read())
            self._is_torn = False


def tls_fault(error: ssl.SSLError, peer: str, hint: str) -> Fault:
    """What an error of OpenSSL means to somebody who has to do something about it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return RefusedFault(f"the certificate of {peer} is not accepted: {printable(error.verify_message)}")
    reason = (error.reason or "unknown").lower().replace("_", " ")
    if "alert" in reason:
        alert = reason.partition("alert ")[2] or reason
        if "certificate" in alert or alert == "unknown ca":
            return RefusedFault(f"{peer} does not know this node's certificate ({alert})", hint=hint)
        return RefusedFault(f"{peer} refuses our TLS ({alert})")
    if reason in ("wrong version number", "http request", "packet length too long", "unknown protocol"):
        return ProtocolFault(f"{peer} does not speak TLS there")
    return ProtocolFault(f"TLS with {peer} failed: {reason}")
