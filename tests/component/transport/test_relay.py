"""The relay's core over real sockets: content, backpressure, and every kind of end."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from usbip_agent.errors import Fault, ProtocolFault
from usbip_agent.transport.relay import CHUNK, Buffer, SocketLink, start_relay
from usbip_agent.transport.stream import shut_down

DEADLINE = 20.0
MEBIBYTE = os.urandom(1024 * 1024)


@dataclass
class Setting:
    """near (the kernel's) - relay - far."""

    near: socket.socket
    far: socket.socket
    faults: list[Fault]


@pytest.fixture
async def relay() -> AsyncIterator[Setting]:
    inside, far = socket.socketpair()
    for each in (inside, far):
        each.setblocking(False)
    faults: list[Fault] = []
    near, end = await start_relay(SocketLink(inside), faults.append)
    yield Setting(near, far, faults)
    near.close()
    far.close()
    await asyncio.wait_for(end(), DEADLINE)


async def read_to_end(connected: socket.socket) -> bytes:
    received = bytearray()
    async with asyncio.timeout(DEADLINE):
        while chunk := await asyncio.get_running_loop().sock_recv(connected, CHUNK):
            received += chunk
    return bytes(received)


async def read(connected: socket.socket, count: int) -> bytes:
    received = bytearray()
    async with asyncio.timeout(DEADLINE):
        while len(received) < count:
            chunk = await asyncio.get_running_loop().sock_recv(connected, count - len(received))
            assert chunk, "an early end"
            received += chunk
    return bytes(received)


def fill(connected: socket.socket) -> int:
    """Writes until the socket takes no more; bytes written."""
    written = 0
    try:
        while True:
            written += connected.send(MEBIBYTE)
    except BlockingIOError:
        return written


async def test_content_arrives_whole_both_ways_at_once(relay: Setting) -> None:
    loop = asyncio.get_running_loop()
    _, _, outward, inward = await asyncio.gather(
        loop.sock_sendall(relay.near, MEBIBYTE), loop.sock_sendall(relay.far, MEBIBYTE[::-1]),
        read(relay.far, len(MEBIBYTE)), read(relay.near, len(MEBIBYTE)))
    assert hashlib.sha256(outward).digest() == hashlib.sha256(MEBIBYTE).digest()
    assert hashlib.sha256(inward).digest() == hashlib.sha256(MEBIBYTE[::-1]).digest()


@pytest.mark.parametrize("far_ends", [True, False])
async def test_what_was_written_before_the_end_arrives(relay: Setting, far_ends: bool) -> None:
    ending, other = (relay.far, relay.near) if far_ends else (relay.near, relay.far)
    written = fill(ending)
    shut_down(ending)
    assert len(await read_to_end(other)) == written
    assert not relay.faults


@pytest.mark.parametrize("far_ends", [True, False])
async def test_half_an_end_is_an_end(relay: Setting, far_ends: bool) -> None:
    ending, other = (relay.far, relay.near) if far_ends else (relay.near, relay.far)
    ending.send(b"last words")
    ending.shutdown(socket.SHUT_WR)
    assert await read_to_end(other) == b"last words"
    assert await read_to_end(ending) == b""


@pytest.mark.parametrize("far_stalls", [True, False])
async def test_a_slow_reader_holds_up_the_writer(relay: Setting, far_stalls: bool) -> None:
    stalling, writing = (relay.far, relay.near) if far_stalls else (relay.near, relay.far)
    written = 0
    while more := fill(writing):
        written += more
        for _ in range(20):
            await asyncio.sleep(0)
    assert written < 4 * 1024 * 1024  # four socket buffers and a chunk
    reading = asyncio.create_task(read(stalling, written))
    assert len(await reading) == written


async def test_an_end_while_the_other_side_does_not_read_is_an_end(relay: Setting) -> None:
    fill(relay.far)
    for _ in range(50):
        await asyncio.sleep(0)
    shut_down(relay.near)
    assert await read_to_end(relay.far) == b""


async def test_a_reply_goes_out_before_the_relay_ends() -> None:
    inside, far = socket.socketpair()
    for each in (inside, far):
        each.setblocking(False)
    near, end = await start_relay(SocketLink(inside))
    near.send(b"a reply")
    near.close()
    await end()
    await end()
    assert far.recv(100) == b"a reply"
    assert far.recv(100) == b""
    far.close()


class BrokenLink:
    """Fails as a link does whose peer was reset."""

    def __init__(self) -> None:
        self.closed = 0

    async def receive(self) -> Buffer:
        raise ProtocolFault("the connection broke: reset")

    async def send(self, data: Buffer) -> None:
        raise ProtocolFault("the connection broke: reset")

    async def close(self) -> None:
        self.closed += 1


async def test_a_broken_link_is_told_once_and_ends_the_socket() -> None:
    link, faults = BrokenLink(), list[Fault]()
    near, end = await start_relay(link, faults.append)
    near.send(b"x")
    assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(near, 1), DEADLINE) == b""
    await end()
    near.close()
    assert [str(fault) for fault in faults] == ["the connection broke: reset"]
    assert link.closed == 1
