"""A WebSocket's link over a real connection: what a bad peer, a slow one or a vanished one comes to."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from usbip_agent.errors import DeadlineFault, Fault, ProtocolFault, RefusedFault
from usbip_agent.transport.relay import SocketLink, start_relay
from usbip_agent.transport.websocket import Pings, WebSocketLink
from usbip_agent.transport.websocket_frames import (
    MAXIMUM_RECEIVED, MAXIMUM_SENT, ClientHandshake, Frames, ServerHandshake)
from usbip_agent.transport.websocket_server import answer_websocket

DEADLINE = 20.0
PATIENT = Pings(3600, 3600)


@dataclass
class Pair:
    """A WebSocket's link on our side; on the other the bare socket, and the protocol to speak on it."""

    link: WebSocketLink
    socket: socket.socket
    frames: Frames

    async def say(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.socket, data)

    async def hear(self) -> list[bytes]:
        """The payloads of the next bytes."""
        async with asyncio.timeout(DEADLINE):
            data = await asyncio.get_running_loop().sock_recv(self.socket, 1 << 20)
        return [bytes(each) for each in self.frames.feed(data)] if data else []


def frames_of_both() -> tuple[Frames, Frames]:
    """An open WebSocket's two ends: client, server."""
    client, server = ClientHandshake("wss://lab.example/usbip"), ServerHandshake()
    frames = server.feed(client.request)
    assert frames is not None
    return client.take(server.answer), frames


def connection() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    ours.setblocking(False)
    theirs.setblocking(False)
    return ours, theirs


@asynccontextmanager
async def pair(pings: Pings = PATIENT) -> AsyncIterator[Pair]:
    """Ours is the server's end: its peers' frames are masked."""
    theirs, ours = frames_of_both()
    near, far = connection()
    link = WebSocketLink(SocketLink(near), ours, near, pings)
    try:
        yield Pair(link, far, theirs)
    finally:
        await link.close()
        far.close()


async def received(link: WebSocketLink) -> bytes:
    return bytes(await asyncio.wait_for(link.receive(), DEADLINE))


async def test_bytes_both_ways_in_bounded_frames() -> None:
    async with pair() as both:
        await both.say(both.frames.binary(b"to us"))
        assert await received(both.link) == b"to us"
        data = bytes(range(256)) * 1024
        sending = asyncio.create_task(both.link.send(data))
        heard: list[bytes] = []
        while sum(map(len, heard)) < len(data):
            heard += await both.hear()
        await sending
        assert b"".join(heard) == data
        assert max(map(len, heard)) == MAXIMUM_SENT


async def test_empty_frames_are_no_end() -> None:
    async with pair() as both:
        await both.say(both.frames.binary(b"") * 3 + both.frames.binary(b"x"))
        assert await received(both.link) == b"x"


async def test_a_ping_is_answered_while_nobody_sends() -> None:
    async with pair() as both:
        both.frames.ping()
        await both.say(bytes(both.frames.replies))
        receiving = asyncio.create_task(both.link.receive())
        data = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(both.socket, 100), DEADLINE)
        assert data == b"\x8a\x00"
        receiving.cancel()


@pytest.mark.parametrize("code, reason, fault, words", [
    (1002, "bad frame", ProtocolFault, "the other side closed the WebSocket: bad frame"),
    (1011, "", ProtocolFault, "the other side closed the WebSocket: code 1011"),
    (1008, "certificate not accepted", RefusedFault, "refused: certificate not accepted"),
    (4000, "\x1b[1m", ProtocolFault, r"closed the WebSocket: \\x1b\[1m"),
])
async def test_a_closing_with_a_reason_is_a_fault(
        code: int, reason: str, fault: type[Fault], words: str) -> None:
    async with pair() as both:
        both.frames.close(code, reason)
        await both.say(bytes(both.frames.replies))
        with pytest.raises(fault, match=words):
            await received(both.link)


async def test_an_orderly_closing_is_an_end_after_what_came_before() -> None:
    async with pair() as both:
        last = both.frames.binary(b"last words")
        both.frames.close()
        await both.say(last + both.frames.replies)
        assert await received(both.link) == b"last words"
        assert await received(both.link) == b""
        assert await received(both.link) == b""
        with pytest.raises(ProtocolFault):
            await both.link.send(b"too late")


@pytest.mark.parametrize("garbage, words", [
    (b"HTTP/1.1 400 Bad Request\r\n\r\n", "no proper WebSocket"),
    (b"\x16\x03\x01\x02\x00\x01", "no proper WebSocket"),
    (b"\x82\x05hello", "no proper WebSocket: incorrect masking"),
    (b"\xc2\x80\0\0\0\0", "no proper WebSocket: reserved bits"),
    (b"\x83\x80\0\0\0\0", "no proper WebSocket: invalid opcode"),
    (b"\x80\x81\0\0\0\0x", "no proper WebSocket: unexpected continuation"),
    (b"\x89\xfe\x00\x7e\0\0\0\0" + b"x" * 126, "no proper WebSocket: control frame too long"),
    (b"\x81\x81\0\0\0\0x", "a WebSocket message in text"),
    (b"\x88\x81\0\0\0\0x", "no proper WebSocket"),
    (b"\x82\xff" + (MAXIMUM_RECEIVED + 1).to_bytes(8, "big") + b"\0\0\0\0", "limit"),
    (b"\x82\xff\x7f" + b"\xff" * 7 + b"\0\0\0\0", "limit"),
])
async def test_what_no_peer_of_ours_sends(garbage: bytes, words: str) -> None:
    async with pair() as both:
        await both.say(garbage)
        with pytest.raises(ProtocolFault, match=words):
            await received(both.link)
        with pytest.raises(ProtocolFault):
            await received(both.link)


async def test_the_largest_frame_is_taken() -> None:
    async with pair() as both:
        data = b"x" * MAXIMUM_RECEIVED
        frame = b"\x82\xff" + len(data).to_bytes(8, "big") + b"\0\0\0\0" + data
        saying = asyncio.create_task(both.say(frame))
        assert await received(both.link) == data
        await saying


async def test_a_connection_that_is_cut_is_a_fault() -> None:
    async with pair() as both:
        await both.say(b"\x82\x85\0\0")
        both.socket.close()
        with pytest.raises(ProtocolFault, match="the connection under the WebSocket was cut"):
            await received(both.link)


async def test_a_peer_that_floods_and_does_not_read_is_left() -> None:
    async with pair() as both:
        ping = b"\x89\xfd\0\0\0\0" + b"x" * 125

        async def flood() -> None:
            while True:
                await both.say(ping * 1000)

        flooding = asyncio.create_task(flood())
        with pytest.raises(ProtocolFault, match="a flood of WebSocket pings"):
            await received(both.link)
        flooding.cancel()
        await asyncio.wait({flooding})


async def test_pings_without_an_answer_end_the_link() -> None:
    async with pair(Pings(0.01, 0.02)) as both:
        with pytest.raises(DeadlineFault, match="no answer to a ping for 0.02 s"):
            await received(both.link)
        assert (await asyncio.get_running_loop().sock_recv(both.socket, 2)) == b"\x89\x00"
        with pytest.raises(DeadlineFault):
            await both.link.send(b"x" * 100)


async def test_pings_with_an_answer_do_not() -> None:
    async with pair(Pings(0.01, DEADLINE)) as both:
        receiving = asyncio.create_task(both.link.receive())
        for _ in range(3):
            await both.hear()  # each answers a ping that was waited for
            await both.say(bytes(both.frames.replies))
            both.frames.replies.clear()
        assert not receiving.done()
        await both.say(both.frames.binary(b"alive"))
        assert bytes(await asyncio.wait_for(receiving, DEADLINE)) == b"alive"


async def test_a_link_that_nobody_reads_is_not_judged() -> None:
    async with pair(Pings(0.001, 0.001)) as both:
        pings = 0
        while pings < 4:
            data = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(both.socket, 2), DEADLINE)
            pings += data == b"\x89\x00"
        await both.say(both.frames.binary(b"here all the time"))
        assert await received(both.link) == b"here all the time"


async def test_a_dead_link_ends_the_socket_that_the_kernel_has() -> None:
    theirs, ours = frames_of_both()
    near, far = connection()
    faults: list[Fault] = []
    kernels, end = await start_relay(
        WebSocketLink(SocketLink(near), ours, near, Pings(0.01, 0.01)), faults.append)
    assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(kernels, 1), DEADLINE) == b""
    assert [type(fault) for fault in faults] == [DeadlineFault]
    await end()
    kernels.close()
    far.close()


@pytest.mark.parametrize("far_stalls", [True, False])
async def test_a_slow_reader_holds_up_the_writer(far_stalls: bool) -> None:
    theirs, ours = frames_of_both()
    near, far = connection()
    for each in (near, far):
        each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 18)
        each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 18)
    left, end_left = await start_relay(WebSocketLink(SocketLink(near), ours, near, PATIENT))
    right, end_right = await start_relay(WebSocketLink(SocketLink(far), theirs, far, PATIENT))
    writing, reading = (left, right) if far_stalls else (right, left)
    written = await stuffed(writing)
    assert written < 8 << 20  # the buffers of three sockets, and a few chunks
    total = 0
    while total < written:
        total += len(await asyncio.wait_for(
            asyncio.get_running_loop().sock_recv(reading, 1 << 20), DEADLINE))
    for each in (left, right):
        each.close()
    await end_left()
    await end_right()


async def stuffed(connected: socket.socket) -> int:
    """Writes until nothing has been taken for many turns of the loop; bytes written."""
    written = idle = 0
    while idle < 200:
        try:
            written += connected.send(bytes(1 << 18))
            idle = 0
        except BlockingIOError:
            idle += 1
        await asyncio.sleep(0)
    return written


async def test_both_full_and_both_pinging_do_not_wait_for_each_other_for_ever() -> None:
    theirs, ours = frames_of_both()
    near, far = connection()
    left, end_left = await start_relay(WebSocketLink(SocketLink(near), ours, near, Pings(0.001, DEADLINE)))
    right, end_right = await start_relay(WebSocketLink(SocketLink(far), theirs, far, Pings(0.001, DEADLINE)))
    written = await asyncio.gather(stuffed(left), stuffed(right))

    async def drain(connected: socket.socket, count: int) -> None:
        while count:
            count -= len(await asyncio.get_running_loop().sock_recv(connected, 1 << 20))

    async with asyncio.timeout(DEADLINE):
        await asyncio.gather(drain(right, written[0]), drain(left, written[1]))
    for each in (left, right):
        each.close()
    await end_left()
    await end_right()


def asking(**changes: str | None) -> bytes:
    """A client's request, with headers changed or left out; ``GET`` and ``path`` are the request line's."""
    headers: dict[str, str | None] = {
        "Host": "lab", "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Protocol": "usbip"}
    line = changes.pop("line", "GET /whatever HTTP/1.1")
    headers |= {name.replace("_", "-"): value for name, value in changes.items()}
    lines = [f"{name}: {value}" for name, value in headers.items() if value is not None]
    return "\r\n".join([str(line), *lines, "", ""]).encode()


async def answered(request: bytes, then: Callable[[socket.socket], None] = lambda _: None) -> tuple[
        WebSocketLink | Fault, bytes]:
    """What becomes of *request*, and what is answered."""
    near, far = connection()
    far.send(request)
    then(far)
    try:
        async with asyncio.timeout(DEADLINE):
            outcome: WebSocketLink | Fault = await answer_websocket(near, PATIENT)
    except Fault as fault:
        outcome = fault
    if isinstance(outcome, WebSocketLink):
        await outcome.close()
    answer = b""
    while data := await asyncio.wait_for(asyncio.get_running_loop().sock_recv(far, 65536), DEADLINE):
        answer += data
    far.close()
    return outcome, answer


async def test_a_request_is_answered_whatever_its_path() -> None:
    outcome, answer = await answered(
        asking(X_Forwarded_For="10.0.0.1", Sec_WebSocket_Extensions="permessage-deflate"))
    assert isinstance(outcome, WebSocketLink)
    assert answer.startswith(b"HTTP/1.1 101 ") and b"permessage" not in answer
    assert answer.endswith(b"\r\n\r\n\x88\x02\x03\xe8")


@pytest.mark.parametrize("request_, status, words", [
    (asking(Upgrade=None), 426, "no WebSocket request of ours"),
    (asking(Connection="keep-alive"), 426, "no WebSocket request of ours"),
    (asking(Sec_WebSocket_Key=None), 400, "no WebSocket request of ours"),
    (asking(Sec_WebSocket_Version="8"), 400, "no WebSocket request of ours"),
    (asking(Sec_WebSocket_Protocol=None), 400, "subprotocol"),
    (asking(Sec_WebSocket_Protocol="chat"), 400, "subprotocol"),
    (asking(line="GET / HTTP/1.0"), 400, "HTTP/1.0"),
    (asking(line="GET /"), 400, "request line"),
    (asking(Content_Length="5"), 400, "body"),
    (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400, "header line"),
    (b"GET / HTTP/1.1\r\n" + b"x" * 9000 + b": y\r\n\r\n", 400, "line too long"),
    (b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 5000, 400, "more than 16 KiB"),
    (asking() + b"\x82\x81\0\0\0\0x", 400, "bytes between the WebSocket request and its answer"),
])
async def test_other_requests_are_refused(request_: bytes, status: int, words: str) -> None:
    outcome, answer = await answered(request_)
    assert isinstance(outcome, ProtocolFault)
    assert words in str(outcome)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()) or words.startswith("more than")


async def test_a_request_that_breaks_off() -> None:
    outcome, _ = await answered(asking()[:-1], lambda far: far.shutdown(socket.SHUT_WR))
    assert str(outcome) == "it hung up in the middle of its WebSocket request"


async def test_a_request_that_never_ends_is_left_at_the_callers_deadline() -> None:
    near, far = connection()
    far.send(asking()[:-1])
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await answer_websocket(near, PATIENT)
    assert near.fileno() == -1
    far.close()
