"""Peers that go in the middle of what they have to say, or before: what is said of them, and how loud."""

from __future__ import annotations

import logging
import socket
import struct

import pytest

from tests.unit.application_side.side import Side, request, until
from usbip_agent import wire
from usbip_agent.application_side import negotiation

REQUEST = request(wire.Operation.EXPORT)


async def hung_up_after(side: Side, count: int, caplog: pytest.LogCaptureFixture, *,
                        reset: bool = False) -> tuple[int, str]:
    """Level and words of the one line about a peer that has sent *count* bytes of a request."""
    caplog.set_level(logging.DEBUG, negotiation.log.name)
    peer = await side.dial()
    peer.send(REQUEST[:count])
    if reset:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    await until(lambda: caplog.records)
    [line] = caplog.records
    return line.levelno, line.getMessage().partition(": ")[2]


@pytest.mark.parametrize("count, words", [
    (1, "hung up after 1 of 2 bytes"), (2, "hung up after 2 of 8 bytes"),
    (8, "hung up after 8 of 320 bytes"), (319, "hung up after 319 of 320 bytes")])
async def test_where_a_request_has_broken_off(
        side: Side, caplog: pytest.LogCaptureFixture, count: int, words: str) -> None:
    assert await hung_up_after(side, count, caplog) == (logging.WARNING, f"the other side {words}")


async def test_who_comes_and_goes_without_a_word_is_no_news(
        side: Side, caplog: pytest.LogCaptureFixture) -> None:
    assert await hung_up_after(side, 0, caplog) == (logging.DEBUG, "the other side hung up without a word")
    caplog.clear()
    assert await hung_up_after(side, 0, caplog, reset=True) == (
        logging.DEBUG, "the connection broke: connection reset by peer")
