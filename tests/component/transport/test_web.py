"""wss from end to end: outer TLS to a reverse proxy, WebSocket, mutual TLS inside, relay."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.component.transport.certificates import Identity, accepting, dialling, make_identity
from tests.component.transport.web import (
    DEADLINE, Host, answering, forwarding_to, host_that, server_that)
from usbip_agent.errors import Fault, ProtocolFault, RefusedFault, UnreachableFault
from usbip_agent.policy import hosts
from usbip_agent.policy.proxy import Proxy
from usbip_agent.policy.transports import Transport
from usbip_agent.transport import websocket_client
from usbip_agent.transport.connecting import connect_to_name as connect
from usbip_agent.transport.stream import Stream
from usbip_agent.transport.websocket_dial import dial_websocket

MEBIBYTE = os.urandom(1024 * 1024)


@dataclass
class Identities:
    """Everybody in these tests."""

    proxy: Identity
    host: Identity
    node: Identity
    stranger: Identity

    @property
    def outer(self) -> ssl.SSLContext:
        """As a machine's whose system trusts the reverse proxy's CA."""
        return ssl.create_default_context(cafile=str(self.proxy.file))


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> Identities:
    directory = tmp_path_factory.mktemp("identities")
    return Identities(*(make_identity(directory, name) for name in ("proxy", "host", "node", "stranger")))


def entry(port: int, proxy: Proxy | None = None) -> hosts.Host:
    return hosts.Host("lab", transport=Transport.WSS, url=f"wss://127.0.0.1:{port}/usbip?x", proxy=proxy)


@asynccontextmanager
async def behind_a_proxy(identities: Identities) -> AsyncIterator[tuple[Host, int]]:
    """A host that knows the node, and the port of the reverse proxy before it."""
    inside = accepting(identities.host, trusting=identities.node)
    async with host_that(inside, lambda certificate: "pi-kitchen" if certificate else None) as (host, port):
        async with server_that(forwarding_to(port), accepting(identities.proxy)) as outer_port:
            yield host, outer_port


async def dialled(identities: Identities, port: int, own: Identity | None = None,
                  proxy: Proxy | None = None) -> Stream:
    def verify(certificate: bytes | None) -> None:
        if certificate != identities.host.der:
            raise RefusedFault("another certificate than the one pinned here")

    return await dial_websocket(entry(port, proxy), dialling(own or identities.node), verify, connect,
                                outer_context=identities.outer)


async def read(connected: socket.socket, count: int) -> bytes:
    received = bytearray()
    async with asyncio.timeout(DEADLINE):
        while len(received) < count:
            chunk = await asyncio.get_running_loop().sock_recv(connected, count - len(received))
            assert chunk, "an early end"
            received += chunk
    return bytes(received)


async def ended(connected: socket.socket) -> bool:
    async with asyncio.timeout(DEADLINE):
        return await asyncio.get_running_loop().sock_recv(connected, 1) == b""


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_content_arrives_whole_both_ways_at_once(
        identities: Identities, version: ssl.TLSVersion) -> None:
    loop = asyncio.get_running_loop()
    context = accepting(identities.host, trusting=identities.node)
    context.maximum_version = version

    def verify(certificate: bytes | None) -> str | None:
        return "pi" if certificate == identities.node.der else None

    async with (host_that(context, verify) as (host, port),
                server_that(forwarding_to(port), accepting(identities.proxy)) as outer_port):
        ours = await dialled(identities, outer_port)
        theirs = await host.stream()
        _, _, outward, inward = await asyncio.gather(
            loop.sock_sendall(ours.socket, MEBIBYTE), loop.sock_sendall(theirs.socket, MEBIBYTE[::-1]),
            read(theirs.socket, len(MEBIBYTE)), read(ours.socket, len(MEBIBYTE)))
        assert hashlib.sha256(outward).digest() == hashlib.sha256(MEBIBYTE).digest()
        assert hashlib.sha256(inward).digest() == hashlib.sha256(MEBIBYTE[::-1]).digest()
        assert (ours.transport, ours.node, theirs.transport, theirs.node) == ("wss", "lab", "ws", "pi")
        assert ours.peer == f"127.0.0.1:{outer_port}"
        assert str(theirs.address) == "127.0.0.1", "X-Forwarded-For is not believed"
        await ours.close()
        assert await ended(theirs.socket)
        await theirs.close()


async def test_a_dead_reverse_proxy_is_noticed_as_the_host_s_entry_says(
        identities: Identities, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[socket.socket, float]] = []
    monkeypatch.setattr(websocket_client, "tune", lambda *arguments: told.append(arguments))
    async with behind_a_proxy(identities) as (host, port):
        ours = await dial_websocket(
            replace(entry(port), dead_after=33.0), dialling(identities.node), lambda certificate: None,
            connect, outer_context=identities.outer)
        theirs = await host.stream()
        [(tuned, dead_after)] = told
        assert tuned.family == socket.AF_INET and dead_after == 33.0
        await ours.close()
        await theirs.close()


async def test_each_end_notices_by_itself_that_the_other_has_died_behind_the_reverse_proxy(
        identities: Identities) -> None:
    dead_after, frozen = 2.0, asyncio.Event()
    inside = accepting(identities.host)
    async with (host_that(inside, lambda _: None, dead_after) as (host, port),
                server_that(forwarding_to(port, frozen), accepting(identities.proxy)) as outer_port):
        ours = await dial_websocket(
            replace(entry(outer_port), dead_after=dead_after), dialling(None), lambda _: None, connect,
            outer_context=identities.outer)
        theirs = await host.stream()
        frozen.set()
        assert await ended(ours.socket)
        assert await ended(theirs.socket)
        await ours.close()
        await theirs.close()


async def test_a_reply_arrives_although_its_writer_closes_at_once(identities: Identities) -> None:
    async with behind_a_proxy(identities) as (host, port):
        ours = await dialled(identities, port)
        theirs = await host.stream()
        theirs.socket.send(b"refused")
        await theirs.close()
        assert await read(ours.socket, 7) == b"refused"
        assert await ended(ours.socket)
        await ours.close()


async def test_through_an_http_proxy_as_well(identities: Identities) -> None:
    asked: list[bytes] = []

    async def connect_proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        asked.append(head.split(b"\r\n")[0])
        to_port = int(head.split()[1].rpartition(b":")[2])
        behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", to_port)
        writer.write(b"HTTP/1.1 200 Yes\r\n\r\n")

        async def onward() -> None:
            while data := await reader.read(65536):
                behind_writer.write(data)

        going = asyncio.create_task(onward())
        try:
            while data := await behind_reader.read(65536):
                writer.write(data)
        finally:
            going.cancel()
            behind_writer.transport.abort()

    async with behind_a_proxy(identities) as (host, port), server_that(connect_proxy) as hop:
        ours = await dialled(identities, port, proxy=Proxy("127.0.0.1", hop, "me", "pw"))
        theirs = await host.stream()
        await asyncio.get_running_loop().sock_sendall(ours.socket, b"hello")
        assert await read(theirs.socket, 5) == b"hello"
        assert asked == [f"CONNECT 127.0.0.1:{port} HTTP/1.1".encode()]
        await ours.close()
        await theirs.close()


async def test_another_host_than_the_pinned_one_gets_nothing(identities: Identities) -> None:
    async with host_that(accepting(identities.stranger), lambda _: "pi") as (host, port):
        async with server_that(forwarding_to(port), accepting(identities.proxy)) as outer_port:
            with pytest.raises(RefusedFault, match="another certificate than the one pinned"):
                await dialled(identities, outer_port)
            outcome = await asyncio.wait_for(host.outcomes.get(), DEADLINE)
            if isinstance(outcome, Stream):  # it heard of it only after its own handshake
                assert await ended(outcome.socket)
                await outcome.close()


async def test_a_node_that_the_hosts_tls_does_not_know(identities: Identities) -> None:
    async with behind_a_proxy(identities) as (host, port):
        faults: list[Fault] = []
        try:
            ours = await dial_websocket(entry(port), dialling(identities.stranger), lambda _: None, connect,
                                        outer_context=identities.outer, on_fault=faults.append)
        except Fault as fault:
            faults.append(fault)  # under TLS 1.2 the handshake itself tells
        else:
            assert await ended(ours.socket)
            await ours.close()
        (refusal,) = faults
        assert isinstance(refusal, RefusedFault)
        assert refusal.what == "the host does not know this node's certificate (unknown ca)"
        assert "join" in refusal.hint
        assert "certificate of the node is not accepted" in str(await host.fault())


async def test_a_node_that_the_host_refuses_after_the_handshake(identities: Identities) -> None:
    def verify(_certificate: bytes | None) -> str | None:
        raise RefusedFault("its certificate was revoked on Tuesday")

    async with host_that(accepting(identities.host, trusting=identities.node), verify) as (host, port):
        async with server_that(forwarding_to(port), accepting(identities.proxy)) as outer_port:
            faults: list[Fault] = []
            ours = await dial_websocket(entry(outer_port), dialling(identities.node), lambda _: None, connect,
                                        outer_context=identities.outer, on_fault=faults.append)
            assert await ended(ours.socket)
            assert str(await host.fault()) == "its certificate was revoked on Tuesday"
            await ours.close()
            assert [str(fault) for fault in faults] == ["refused: certificate not accepted"]


async def test_the_end_of_the_reverse_proxy_is_the_end_of_both_streams(identities: Identities) -> None:
    async with host_that(accepting(identities.host), lambda _: None) as (host, port):
        async with server_that(forwarding_to(port), accepting(identities.proxy)) as outer_port:
            ours = await dialled(identities, outer_port)
            theirs = await host.stream()
        assert await ended(ours.socket)
        assert await ended(theirs.socket)
        await ours.close()
        await theirs.close()


@pytest.mark.parametrize("answer, fault, words", [
    (b"HTTP/1.1 401 Unauthorized\r\n\r\n", RefusedFault, "wants a password for /usbip"),
    (b"HTTP/1.1 403 Forbidden\r\n\r\n", RefusedFault, "forbids /usbip"),
    (b"HTTP/1.1 404 Not Found\r\nContent-Length: 99999999\r\n\r\n", RefusedFault, "has nothing at /usbip"),
    (b"HTTP/1.1 426 Upgrade Required\r\n\r\n", RefusedFault, "passes no WebSocket on"),
    (b"HTTP/1.1 302 Found\r\nLocation: https://sso.example/\r\n\r\n", RefusedFault, "sends elsewhere: http"),
    (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", UnreachableFault, "cannot reach usbipa behind it"),
    (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", UnreachableFault, "cannot reach usbipa behind it"),
    (b"HTTP/1.1 200 OK\r\n\r\n<html>", RefusedFault, "says 200 OK"),
    (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", ProtocolFault, "no WebSocket there"),
    (b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n",
     ProtocolFault, "no WebSocket there"),
    (b"220 mail.example ESMTP\r\n", ProtocolFault, "no HTTP"),
    (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 9999, ProtocolFault, "more than 16 KiB"),
])
async def test_what_the_reverse_proxy_answers_instead(
        identities: Identities, answer: bytes, fault: type[Fault], words: str) -> None:
    async with server_that(answering(answer), accepting(identities.proxy)) as port:
        with pytest.raises(fault, match=words):
            await dialled(identities, port)


async def test_a_reverse_proxy_with_another_certificate(identities: Identities) -> None:
    async with server_that(answering(b""), accepting(identities.stranger)) as port:
        with pytest.raises(RefusedFault, match="certificate of 127.0.0.1 is not accepted: self.signed"):
            await dialled(identities, port)


async def test_a_reverse_proxy_of_another_name(identities: Identities, tmp_path: Path) -> None:
    elsewhere = make_identity(tmp_path, "elsewhere", address="192.0.2.1")
    identities = Identities(elsewhere, identities.host, identities.node, identities.stranger)
    async with server_that(answering(b""), accepting(elsewhere)) as port:
        with pytest.raises(RefusedFault, match="is not accepted: IP address mismatch"):
            await dialled(identities, port)


async def test_a_port_without_tls(identities: Identities) -> None:
    async with server_that(answering(b"")) as port:
        with socket.create_server(("127.0.0.1", 0)) as closed:
            refused = closed.getsockname()[1]

        async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await reader.read()

        async with server_that(plain) as port:
            with pytest.raises(ProtocolFault, match="127.0.0.1 does not speak TLS there"):
                await dialled(identities, port)
        with pytest.raises(UnreachableFault, match="connection refused"):
            await dialled(identities, refused)
