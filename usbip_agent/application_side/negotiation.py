"""One connection, from its first byte to its reply. What to answer is the desk's to decide.

The device side dials, asks one thing in 320 bytes, and says no more until it has its reply: on an EXPORT the
next bytes belong to the kernels. Whatever comes earlier, later, or otherwise ends the connection.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Protocol

from usbip_agent import wire
from usbip_agent.application_side.imports import Offer
from usbip_agent.errors import (
    DeadlineFault, Fault, ModuleFault, NoFreePortFault, ProtocolFault, RefusedFault, UnknownDeviceFault)
from usbip_agent.names import Journal
from usbip_agent.policy.usbipa import Listener
from usbip_agent.service import journal
from usbip_agent.transport.stream import SilentEnd, Stream, broken, receive_exactly, send_all

log = logging.getLogger(__name__)

DEADLINE = 10.0
"""Seconds for all that the peer has to say, and again for it to take the reply."""


class Admission(Protocol):
    """A port that waits for the device; one of the two ends the waiting."""

    def take(self, stream: Stream) -> None:
        """Attach *stream*, which is the callee's from now on."""

    def abandon(self) -> None:
        """Free the port: there will be no device."""


class Desk(Protocol):
    """Who decides. Refusals are raised as Fault."""

    @property
    def with_return_code(self) -> bool:
        """Whether replies have v9's return code."""

    async def admit(self, offer: Offer) -> Admission:
        """A port for *offer*; RefusedFault by policy, NoFreePortFault, ModuleFault."""

    async def unexport(self, offer: Offer) -> None:
        """End the import of *offer*, and return when its port is free. RefusedFault when there is none."""


class Entrance(Protocol):
    """How a connection becomes a stream (``doors.Doors``)."""

    async def establish(self, connection: socket.socket, listener: Listener) -> Stream:
        """The stream over *connection*, whatever transport it speaks. RefusedFault, ProtocolFault."""


Enrol = Callable[[Stream], Awaitable[None]]
"""Serves a stream at whose other end nobody in particular is. It has deadlines of its own."""


class Negotiator:
    """Serves connections, one call each; a slow or hostile one costs the others nothing."""

    def __init__(self, desk: Desk, entrance: Entrance, enrol: Enrol, heard: Callable[[], None], *,
                 deadline: float = DEADLINE) -> None:
        """*heard* is called, from a negotiation's own task, when its peer has asked for something."""
        self._desk = desk
        self._entrance = entrance
        self._enrol = enrol
        self._heard = heard
        self._deadline = deadline

    async def serve(self, connection: socket.socket, listener: Listener) -> None:
        """Negotiates on *connection*, which is closed at the end or the kernel's."""
        try:
            peer = "%s:%s" % connection.getpeername()[:2]
        except OSError:
            peer = "a peer that has gone"
        try:
            async with asyncio.timeout(self._deadline):
                stream = await self._entrance.establish(connection, listener)
        except TimeoutError:
            connection.close()
            _complain(peer, DeadlineFault(f"no connection to speak of within {self._deadline:g} s"))
        except Fault as fault:
            connection.close()
            _complain(peer, fault)
        except BaseException:
            connection.close()
            raise
        else:
            await self._attend(stream)

    async def _attend(self, stream: Stream) -> None:
        """Hears what is asked over *stream*, and answers."""
        try:
            if stream.is_anonymous:
                await self._enrol(stream)
                await stream.close()
                return
            async with asyncio.timeout(self._deadline):
                request = await receive_request(stream)
        except TimeoutError:
            await stream.close()
            _complain(stream.peer, DeadlineFault(f"no whole request within {self._deadline:g} s"))
        except Fault as fault:
            await stream.close()
            _complain(stream.peer, fault)
        except BaseException:
            await stream.close()
            raise
        else:
            await self._answer(stream, request)

    async def _answer(self, stream: Stream, request: wire.Request) -> None:
        self._heard()
        offer = Offer(request.device, str(stream.address), stream.peer, stream.transport, stream.node,
                      stream.certificate)
        if request.operation is wire.Operation.UNEXPORT:
            await self._unexport(stream, offer)
            return
        handed_over = False
        try:
            handed_over = await self._export(stream, offer)
        finally:
            if not handed_over:
                await stream.close()

    async def _export(self, stream: Stream, offer: Offer) -> bool:
        try:
            admission = await self._desk.admit(offer)
        except Fault as fault:
            await self._refuse(stream, wire.Operation.EXPORT, offer, fault)
            return False
        try:
            _expect_silence(stream.socket)
            await self._reply(stream, wire.Operation.EXPORT, wire.Status.OK)
        except (Fault, OSError) as error:
            admission.abandon()
            _complain(stream.peer, error, offer)
            return False
        except BaseException:
            admission.abandon()
            raise
        admission.take(stream)
        return True

    async def _unexport(self, stream: Stream, offer: Offer) -> None:
        try:
            await self._desk.unexport(offer)
            await self._reply(stream, wire.Operation.UNEXPORT, wire.Status.OK)
        except (RefusedFault, DeadlineFault) as fault:
            await self._refuse(stream, wire.Operation.UNEXPORT, offer, fault)
        except Fault as fault:
            _complain(stream.peer, fault, offer)
        finally:
            await stream.close()

    async def _refuse(self, stream: Stream, operation: wire.Operation, offer: Offer, reason: Fault) -> None:
        what = f"refused {operation.name} of {offer.description}: {reason}"
        journal.transition(log, logging.WARNING, what, {
            Journal.BUS_ID: offer.device.bus_id, Journal.NODE: offer.node or "", Journal.PEER: stream.peer,
            Journal.REASON: str(reason), Journal.CODE: reason.code, Journal.STATE: "rejected",
        })
        try:
            await self._reply(stream, operation, _status_of(operation, reason))
        except Fault:
            pass  # it has gone without hearing the answer

    async def _reply(self, stream: Stream, operation: wire.Operation, status: wire.Status) -> None:
        reply = wire.encode_reply(operation, status, with_return_code=self._desk.with_return_code)
        try:
            async with asyncio.timeout(self._deadline):
                await send_all(stream.socket, reply)
        except TimeoutError:
            raise DeadlineFault(f"the reply was not taken within {self._deadline:g} s") from None


async def receive_request(stream: Stream) -> wire.Request:
    """The request, read to the byte. ProtocolFault as soon as it cannot become one."""
    header = await receive_exactly(stream.socket, wire.HEADER.size)
    wire.decode_request_header(header)
    return wire.decode_request(await receive_exactly(stream.socket, wire.REQUEST_SIZE, header))


def _expect_silence(connected: socket.socket) -> None:
    """ProtocolFault when the peer has sent more, or hung up: nothing may precede the kernel's first byte."""
    try:
        more = connected.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return
    except OSError as error:
        raise broken(error) from None
    raise ProtocolFault("bytes between the request and its reply" if more else "it hung up before its reply")


def _status_of(operation: wire.Operation, reason: Fault) -> wire.Status:
    """v9 knows 1 alone, but any status that is not 0 is a refusal to it; so who knows more is told more."""
    if isinstance(reason, NoFreePortFault):
        return wire.Status.NO_FREE_PORT
    if operation is wire.Operation.UNEXPORT and isinstance(reason, (UnknownDeviceFault, RefusedFault)):
        return wire.Status.NOT_FOUND
    if isinstance(reason, (RefusedFault, ModuleFault)):
        return wire.Status.NOT_AVAILABLE
    return wire.Status.ERROR


def _complain(peer: str, error: Fault | OSError, offer: Offer | None = None) -> None:
    code = error.code if isinstance(error, Fault) else ""
    what = f"{offer.description}: {error}" if offer else f"{peer}: {error}"
    fields = {Journal.PEER: peer, Journal.REASON: str(error), Journal.CODE: code}
    if offer:
        fields[Journal.BUS_ID] = offer.device.bus_id
    level = logging.DEBUG if isinstance(error, SilentEnd) else logging.WARNING
    journal.transition(log, level, what, fields)
