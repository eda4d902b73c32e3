"""CONNECT over real sockets, with proxies that say yes, no, nothing, too much, or dribble."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from usbip_agent.errors import Fault, RefusedFault, UnreachableFault
from usbip_agent.policy.proxy import Proxy
from usbip_agent.transport.connecting import connect_to_name as connect
from usbip_agent.transport.http_proxy import connect_through
from usbip_agent.transport.stream import receive_exactly

DEADLINE = 20.0
YES = b"HTTP/1.1 200 Connection established\r\nVia: tiny\r\n\r\n"

Answer = Callable[[bytes, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def proxy_that(answer: Answer) -> AsyncIterator[Proxy]:
    """A proxy that reads the request's head, then does *answer*, then hangs up."""
    at_work: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        at_work.add(task)
        try:
            await answer(await reader.readuntil(b"\r\n\r\n"), reader, writer)
        except (asyncio.CancelledError, OSError, EOFError):
            pass
        finally:
            at_work.discard(task)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield Proxy("127.0.0.1", server.sockets[0].getsockname()[1], "me", "pw")
    finally:
        server.close()
        for task in at_work:
            task.cancel()
        await asyncio.gather(*at_work)


def saying(data: bytes) -> Answer:
    async def answer(_request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await reader.read()
    return answer


async def dialled(answer: Answer, deadline: float = DEADLINE) -> socket.socket:
    async with proxy_that(answer) as proxy:
        return await connect_through(proxy, "lab.example", 3240, connect, deadline=deadline)


@pytest.mark.parametrize("before", [b"", b"HTTP/1.1 100 Continue\r\n\r\n"])
async def test_what_the_host_says_first_stays_in_the_socket(before: bytes) -> None:
    async with proxy_that(saying(before + YES + b"\x16\x03\x03first record")) as proxy:
        with await connect_through(proxy, "lab.example", 3240, connect) as connected:
            assert await receive_exactly(connected, 15) == b"\x16\x03\x03first record"


async def test_a_yes_that_dribbles_is_waited_for() -> None:
    async def dribble(_request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for byte in YES + b"x":
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
        await reader.read()

    async with proxy_that(dribble) as proxy:
        with await connect_through(proxy, "lab.example", 3240, connect) as connected:
            assert await receive_exactly(connected, 1) == b"x"


async def test_the_proxy_is_told_where_and_who() -> None:
    requests = []

    async def note(request: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(request)
        writer.write(YES)
        await writer.drain()

    (await dialled(note)).close()
    assert requests == [b"CONNECT lab.example:3240 HTTP/1.1\r\nHost: lab.example:3240\r\n"
                        b"Proxy-Authorization: Basic bWU6cHc=\r\n\r\n"]


@pytest.mark.parametrize("said, fault, words", [
    (b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=x\r\n\r\n", RefusedFault, "other credentials"),
    (b"HTTP/1.0 403 Filtered\r\n\r\n<html>", RefusedFault, "forbids connections to lab.example port 3240"),
    (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 9999999999\r\n\r\n", UnreachableFault, "cannot reach lab"),
    (b"SSH-2.0-OpenSSH\r\n", UnreachableFault, "an answer that is no HTTP"),
    (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 10000, UnreachableFault, "more than 16 KiB"),
    (b"HTTP/1.1 100 Continue\r\n\r\n" * 10000, UnreachableFault, "no end of interim answers"),
])
async def test_a_no_is_told_in_its_own_words(said: bytes, fault: type[Fault], words: str) -> None:
    with pytest.raises(fault, match=words) as caught:
        await dialled(saying(said))
    assert str(caught.value).startswith("the proxy 127.0.0.1 port ")


@pytest.mark.parametrize("said", [b"", YES[:-1]])
async def test_a_proxy_that_hangs_up_or_falls_silent(said: bytes) -> None:
    async def hang_up(_request: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await writer.drain()

    with pytest.raises(UnreachableFault, match="it hung up before its answer"):
        await dialled(hang_up)
    with pytest.raises(UnreachableFault, match="did not answer for 0.05 s"):
        await dialled(saying(said), deadline=0.05)


async def test_a_proxy_that_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(UnreachableFault, match=f"the proxy 127.0.0.1 port {port}: connection refused"):
        await connect_through(Proxy("127.0.0.1", port), "lab", 1, connect)
