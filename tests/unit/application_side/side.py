"""A whole application side over real sockets on loopback; only the kernel's vhci is a fake."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.unit.application_side.fake_vhci import (
    FakeAppearances, FakeDisplay, FakeRecords, FakeStore, FakeVhci, device)
from usbip_agent import wire
from usbip_agent.application_side.doors import Doors
from usbip_agent.application_side.imports import Imports
from usbip_agent.application_side.keeper import Keeper
from usbip_agent.application_side.life import Surroundings
from usbip_agent.application_side.listener import Listeners
from usbip_agent.application_side.negotiation import Negotiator
from usbip_agent.application_side.usbipa import Overrides, Usbipa
from usbip_agent.device import Device
from usbip_agent.transport.fingerprint import certificate_der, fingerprint_of
from usbip_agent.policy.usbipa import AcceptPolicy, Listener, ListenerTransport
from usbip_agent.transport.stream import Stream
from usbip_agent.transport.tls import Credentials
from usbip_agent.transport.watch import LinkWatcher

PATIENCE = 10.0
"""Seconds that a test waits for what it expects; nothing takes long, the machine may be busy."""

OK_V9 = struct.pack(">HHII", 0x0111, 6, 0, 0)
OK_V14 = OK_V9[:8]


def refusal(status: int) -> bytes:
    return struct.pack(">HHII", 0x0111, 6, status, 0xFFFFFFFF)


def unexported(status: int) -> bytes:
    return struct.pack(">HHI", 0x0111, 7, status) + (b"" if status else bytes(4))


@dataclass
class FakeGuests:
    """Who is known: certificates in PEM by name."""

    known: dict[str, str] = field(default_factory=dict)
    fingerprints: dict[str, str] = field(default_factory=dict)
    """Names by fingerprint, for tests that need no certificate."""
    generation: int = 0
    seen_from: dict[str, str] = field(default_factory=dict)

    def seen(self, name: str, peer: str, now: int) -> None:
        self.seen_from[name] = peer

    def certificates(self) -> str:
        return "".join(self.known.values())

    def name_of(self, fingerprint: str) -> str | None:
        return self.fingerprints.get(fingerprint) or next(
            (name for name, pem in self.known.items()
             if fingerprint_of(certificate_der(pem)) == fingerprint), None)


@dataclass
class Side:
    """A whole application side, and its peers."""

    vhci: FakeVhci = field(default_factory=FakeVhci)
    records: FakeRecords = field(default_factory=FakeRecords)
    store: FakeStore = field(default_factory=FakeStore)
    appearances: FakeAppearances = field(default_factory=FakeAppearances)
    display: FakeDisplay = field(default_factory=FakeDisplay)
    policy: AcceptPolicy = field(default_factory=lambda: AcceptPolicy(default_accept=True))
    credentials: Credentials | None = None
    guests: FakeGuests = field(default_factory=lambda: FakeGuests())
    enrolled: asyncio.Queue[Stream] = field(default_factory=asyncio.Queue)
    """The streams that were good to enrol and nothing else."""
    deadline: float = PATIENCE
    port: int = 0
    peers: list[socket.socket] = field(default_factory=list)

    def start(self) -> None:
        """Listens on loopback, on any port."""
        self.watcher = LinkWatcher()
        self.keeper = Keeper(Surroundings(
            Imports(), self.vhci, self.records, self.store, self.appearances, self.display, self.watcher))
        self.listeners = Listeners(lambda *arguments: self.negotiator.serve(*arguments), (4,))
        self.usbipa = Usbipa(self.load, self.keeper, self.listeners, lambda: self.vhci.loaded,
                             self.guests.name_of, Overrides())
        self.negotiator = Negotiator(
            self.usbipa, Doors(self.credentials, self.guests, lambda: 10.0), self.enrolled.put,
            self.listeners.heard, deadline=self.deadline)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.usbipa.configure()
        self.listeners.start()

    def load(self) -> AcceptPolicy:
        from dataclasses import replace

        plain = frozenset({ListenerTransport.PLAIN})
        return replace(self.policy, listen=self.policy.listen or (Listener("127.0.0.1", self.port, plain),))

    async def stop(self) -> None:
        await self.listeners.close()
        await self.keeper.end_all("the test is over")
        self.watcher.close()
        for peer in self.peers:
            peer.close()
        self.vhci.close()

    async def dial(self) -> socket.socket:
        peer = socket.socket()
        peer.setblocking(False)
        self.peers.append(peer)
        await asyncio.get_running_loop().sock_connect(peer, ("127.0.0.1", self.port))
        return peer

    async def ask(self, data: bytes) -> tuple[socket.socket, bytes]:
        """Sends *data* at once; the connection and the whole reply."""
        peer = await self.dial()
        await asyncio.get_running_loop().sock_sendall(peer, data)
        return peer, await heard(peer, 12)

    async def export(self, exported: Device | None = None) -> tuple[socket.socket, bytes]:
        return await self.ask(request(wire.Operation.EXPORT, exported))

    async def unexport(self, exported: Device | None = None) -> bytes:
        return (await self.ask(request(wire.Operation.UNEXPORT, exported)))[1]


def request(operation: wire.Operation, exported: Device | None = None) -> bytes:
    return wire.encode_request(wire.Request(operation, exported or device()))


async def heard(peer: socket.socket, most: int) -> bytes:
    """What *peer* is told until there is no more, or *most* bytes."""
    data = b""
    try:
        async with asyncio.timeout(PATIENCE):
            while len(data) < most:
                chunk = await asyncio.get_running_loop().sock_recv(peer, most - len(data))
                if not chunk:
                    break
                data += chunk
    except ConnectionResetError:
        pass
    return data


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not holds():
            await asyncio.sleep(0)
