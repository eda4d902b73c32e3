"""What the device side says to the application side: EXPORT and UNEXPORT over a connected stream."""

from __future__ import annotations

import asyncio

from usbip_agent import wire
from usbip_agent.device import Device
from usbip_agent.errors import DeadlineFault, ProtocolFault, RefusedFault
from usbip_agent.transport.stream import Stream, peek_exactly, receive_exactly, send_all
from usbip_agent.transport.tls import objection

REPLY_DEADLINE = 10.0
"""Seconds for the other side to answer."""


async def request(stream: Stream, operation: wire.Operation, device: Device,
                  deadline: float = REPLY_DEADLINE) -> None:
    """Asks, and returns on OK. RefusedFault, ProtocolFault, or DeadlineFault after *deadline* seconds."""
    try:
        async with asyncio.timeout(deadline):
            await send_all(stream.socket, wire.encode_request(wire.Request(operation, device)))
            header = await receive_exactly(stream.socket, wire.HEADER.size)
    except TimeoutError:
        raise DeadlineFault(f"no answer to {operation.name} for {deadline:.0f} s") from None
    except ProtocolFault as fault:
        raise objection(stream, fault) from None
    reply = wire.decode_reply_header(header, operation)
    if reply.status != wire.Status.OK:
        raise RefusedFault(f"the host says no: {wire.status_words(reply.status)}")


async def settle_reply(stream: Stream, deadline: float = REPLY_DEADLINE) -> None:
    """After the OK to an EXPORT: leaves the stream where the first URB begins.

    v9 of the series sends a return code, v14 does not, and nothing in the request or the header tells which.
    But the next four bytes do: they are a zero to be taken, or the first URB's command to be left.
    """
    try:
        async with asyncio.timeout(deadline):
            if wire.is_return_code(await peek_exactly(stream.socket, wire.RETURN_CODE.size)):
                await receive_exactly(stream.socket, wire.RETURN_CODE.size)
    except ProtocolFault as fault:
        raise ProtocolFault(f"after its OK, {fault.what}") from None
    except TimeoutError:
        raise DeadlineFault(f"the host said OK and then nothing for {deadline:.0f} s") from None
