"""Dialling a host that is not one: whatever happens is a Fault, and no socket stays open."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from usbip_agent.errors import DeadlineFault, ProtocolFault, UnreachableFault
from usbip_agent.identity.own import ensure_identity
from usbip_agent.policy.hosts import Host
from usbip_agent.policy.transports import Transport
from usbip_agent.transport import dial
from usbip_agent.transport.dial import Dialler
from usbip_agent.transport.stream import tune
from usbip_agent.transport.tls import Credentials, client_context, handshake, server_context, stream_over


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def entry(listening: socket.socket, transport: Transport) -> Host:
    return Host("lab", "127.0.0.1", listening.getsockname()[1], transport, fingerprint="sha256:" + "0" * 64)


def reset(connected: socket.socket) -> None:
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connected.close()


@pytest.fixture
def dialled(monkeypatch: pytest.MonkeyPatch, listening: socket.socket) -> list[socket.socket]:
    """The sockets that were connected; each is accepted, and reset before anything else happens to it."""
    connected: list[socket.socket] = []

    def reset_and_tune(ours: socket.socket, dead_after: float) -> None:
        connected.append(ours)
        reset(listening.accept()[0])
        tune(ours, dead_after)

    monkeypatch.setattr(dial, "tune", reset_and_tune)
    return connected


@pytest.mark.parametrize("transport", [Transport.PLAIN, Transport.TLS])
async def test_a_host_that_accepts_and_resets(
        listening: socket.socket, dialled: list[socket.socket], transport: Transport) -> None:
    with pytest.raises(ProtocolFault, match="^the connection broke: connection reset by peer$"):
        await Dialler(lambda: None)(entry(listening, transport))
    assert [each.fileno() for each in dialled] == [-1]


async def test_a_host_that_resets_after_the_handshake(tmp_path: Path, listening: socket.socket) -> None:
    own = ensure_identity(tmp_path, "lab")
    near = socket.create_connection(listening.getsockname())
    far, _ = listening.accept()
    near.setblocking(False)
    far.setblocking(False)
    accepting = server_context(Credentials(own.certificate, own.key), "")
    ours, theirs = await asyncio.gather(
        handshake(near, client_context(None)), handshake(far, accepting, server_side=True))
    with ours:
        reset(theirs)
        with pytest.raises(ProtocolFault, match="^the connection broke: connection reset by peer$"):
            await stream_over(ours, "lab")


async def test_a_machine_without_descriptors_goes_on_to_the_next_host(
        monkeypatch: pytest.MonkeyPatch) -> None:
    async def exhausted(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(Dialler, "_connect", exhausted)
    with pytest.raises(UnreachableFault, match="^too many open files$"):
        await Dialler(lambda: None)(Host("lab", "192.0.2.7", 3240, Transport.PLAIN))


async def test_how_long_a_websocket_was_waited_for(
        monkeypatch: pytest.MonkeyPatch, listening: socket.socket) -> None:
    monkeypatch.setattr(dial, "WEBSOCKET_DEADLINE", 0.05)
    silent = Host("lab", transport=Transport.WSS, fingerprint="sha256:" + "0" * 64,
                  url=f"wss://127.0.0.1:{listening.getsockname()[1]}/")
    with pytest.raises(DeadlineFault, match="^no WebSocket for 0.05 s$"):
        await Dialler(lambda: None)(silent)
