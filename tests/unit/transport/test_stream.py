"""Reading to the byte over real sockets: nothing after the reply may be swallowed."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from usbip_agent import wire
from usbip_agent.device import Device, Kind, Speed
from usbip_agent.device_side.request import request, settle_reply
from usbip_agent.errors import DeadlineFault, ProtocolFault, RefusedFault
from usbip_agent.blocking import in_thread
from usbip_agent.transport.stream import Stream, plain_stream, receive_exactly
from usbip_agent.transport.watch import LinkWatcher, keep

DEVICE = Device(Kind.USB, "1-1", 1, 2, Speed.HIGH, "10c4", "ea60")
FIRST_URB = bytes.fromhex("00000001") + b"the rest of a CMD_SUBMIT"


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connected TCP pair: ours, non-blocking, and the peer's, blocking."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    ours.setblocking(False)
    theirs.settimeout(10)
    with ours, theirs:
        yield ours, theirs


def stream_of(pair: tuple[socket.socket, socket.socket]) -> Stream:
    return plain_stream(pair[0])


@pytest.mark.parametrize("revision", ["v9", "v14"])
async def test_the_first_urb_is_left_for_the_kernel(
        pair: tuple[socket.socket, socket.socket], revision: str) -> None:
    stream = stream_of(pair)
    reply = wire.encode_reply(wire.Operation.EXPORT, 0, with_return_code=revision == "v9")
    pair[1].sendall(reply + FIRST_URB)
    await request(stream, wire.Operation.EXPORT, DEVICE)
    await settle_reply(stream)
    assert await receive_exactly(stream.socket, len(FIRST_URB)) == FIRST_URB


async def test_a_return_code_that_dribbles_is_waited_for(pair: tuple[socket.socket, socket.socket]) -> None:
    stream = stream_of(pair)
    pair[1].sendall(b"\0\0")
    settled = asyncio.ensure_future(settle_reply(stream))
    await in_thread("the peer's other half", lambda: pair[1].sendall(b"\0\0" + FIRST_URB))
    await settled
    assert await receive_exactly(stream.socket, len(FIRST_URB)) == FIRST_URB


async def test_a_refusal_says_what_the_host_means(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[1].sendall(wire.encode_reply(wire.Operation.EXPORT, 1, with_return_code=True))
    with pytest.raises(RefusedFault, match="no rule accepts it"):
        await request(stream_of(pair), wire.Operation.EXPORT, DEVICE)


@pytest.mark.parametrize("said", [b"", b"\x01\x11\x00", b"HTTP/1.1 400 Bad Request\r\n"])
async def test_a_peer_that_is_none_is_a_fault(pair: tuple[socket.socket, socket.socket], said: bytes) -> None:
    pair[1].sendall(said)
    pair[1].shutdown(socket.SHUT_WR)
    with pytest.raises(ProtocolFault):
        await request(stream_of(pair), wire.Operation.EXPORT, DEVICE)


@pytest.mark.parametrize("said", [b"", b"\x01\x11\x00\x06"])
async def test_a_peer_that_falls_silent_is_left_at_the_deadline(
        pair: tuple[socket.socket, socket.socket], said: bytes) -> None:
    pair[1].sendall(said)
    with pytest.raises(DeadlineFault):
        await request(stream_of(pair), wire.Operation.EXPORT, DEVICE, deadline=0.05)


async def test_nothing_after_an_ok_is_a_fault(pair: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(DeadlineFault):
        await settle_reply(stream_of(pair), deadline=0.05)
    pair[1].close()
    with pytest.raises(ProtocolFault, match="^after its OK, the other side hung up without a word$"):
        await settle_reply(stream_of(pair))


async def test_the_end_of_a_link_is_noticed_and_data_is_not(
        pair: tuple[socket.socket, socket.socket]) -> None:
    watcher = LinkWatcher()
    ended = asyncio.Event()
    link = keep(pair[0])
    watcher.watch(link, ended.set)
    pair[1].sendall(b"x" * 1000)
    assert await receive_exactly(pair[0], 1000) == b"x" * 1000
    assert not ended.is_set()
    pair[1].close()
    await asyncio.wait_for(ended.wait(), 10)
    watcher.unwatch(link)
    watcher.close()
    link.close()


async def test_an_unwatched_link_ends_in_silence(pair: tuple[socket.socket, socket.socket]) -> None:
    watcher = LinkWatcher()
    first, second = asyncio.Event(), asyncio.Event()
    forgotten, kept = keep(pair[0]), keep(pair[0])
    watcher.watch(forgotten, first.set)
    watcher.watch(kept, second.set)
    watcher.unwatch(forgotten)
    pair[1].close()
    await asyncio.wait_for(second.wait(), 10)
    assert not first.is_set()
    watcher.close()
    forgotten.close()
    kept.close()
