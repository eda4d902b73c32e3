"""Mutual TLS over real sockets: who gets in, who does not, and what each side is told."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import ssl
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from usbip_agent.application_side.doors import Doors
from usbip_agent.errors import Fault, IdentityFault, ProtocolFault, RefusedFault
from usbip_agent.transport.fingerprint import certificate_der, fingerprint_of
from usbip_agent.identity.own import Identity, ensure_identity
from usbip_agent.policy.hosts import Host
from usbip_agent.policy.listeners import Listener
from usbip_agent.policy.transports import ListenerTransport, Transport
from usbip_agent.transport.dial import Dialler
from usbip_agent.transport.stream import Stream, receive_exactly, send_all
from usbip_agent.transport.tls import Credentials, client_context, handshake, is_offloaded, objection

TLS_ONLY = frozenset({ListenerTransport.TLS})


@dataclass
class Guests:
    """Who is enrolled, by name."""

    known: dict[str, Identity]
    generation: int = 0
    seen_from: dict[str, str] = field(default_factory=dict)

    def seen(self, name: str, peer: str, now: int) -> None:
        self.seen_from[name] = peer

    def certificates(self) -> str:
        return "".join(identity.pem for identity in self.known.values())

    def name_of(self, fingerprint: str) -> str | None:
        return next((name for name, each in self.known.items() if each.fingerprint == fingerprint), None)


@dataclass
class Place:
    """A host that listens, and what became of who came."""

    own: Identity
    guests: Guests
    socket: socket.socket
    transports: frozenset[ListenerTransport] = TLS_ONLY

    @property
    def entry(self) -> Host:
        address, port = self.socket.getsockname()
        return Host("lab", address, port, Transport.TLS, fingerprint=self.own.fingerprint)

    async def admit(self) -> Stream:
        connection, _ = await asyncio.get_running_loop().sock_accept(self.socket)
        doors = Doors(credentials(self.own), self.guests, lambda: 10.0)
        try:
            return await doors.establish(connection, Listener("127.0.0.1", 0, self.transports))
        except BaseException:
            connection.close()
            raise


def credentials(identity: Identity) -> Credentials:
    return Credentials(identity.certificate, identity.key)


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Identity]:
    names = ("lab", "kitchen", "thief")
    return {name: ensure_identity(tmp_path_factory.mktemp(name), name) for name in names}


@pytest.fixture
def place(identities: dict[str, Identity]) -> Place:
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    return Place(identities["lab"], Guests({"pi-kitchen": identities["kitchen"]}), listening)


async def meet(place: Place, dialler: Dialler, entry: Host | None = None,
               ) -> tuple[Stream | Fault, Stream | Fault]:
    """What the dialling side and the accepting side each got."""
    outcomes = await asyncio.gather(dialler(entry or place.entry), place.admit(), return_exceptions=True)
    place.socket.close()
    return outcomes[0], outcomes[1]  # type: ignore[return-value]


async def close(*outcomes: Stream | Fault) -> None:
    for each in outcomes:
        if isinstance(each, Stream):
            await each.close()


def refusal(outcome: Stream | Fault) -> str:
    assert isinstance(outcome, RefusedFault | ProtocolFault), outcome
    return str(outcome)


async def test_an_enrolled_node_is_known_by_its_certificate(
        place: Place, identities: dict[str, Identity]) -> None:
    node, host = await meet(place, Dialler(lambda: credentials(identities["kitchen"])))
    assert isinstance(node, Stream) and isinstance(host, Stream)
    assert (host.node, node.node) == ("pi-kitchen", "lab")
    assert (host.certificate, node.certificate) == (identities["kitchen"].fingerprint, "")
    assert place.guests.seen_from == {"pi-kitchen": host.peer}
    assert {node.transport, host.transport} <= {"tls", "tls (relay)"}
    await send_all(node.socket, b"from the node")
    assert await receive_exactly(host.socket, 13) == b"from the node"
    await send_all(host.socket, b"from the host")
    assert await receive_exactly(node.socket, 13) == b"from the host"
    await close(node, host)


async def test_the_transport_says_whether_the_kernel_encrypts(
        place: Place, identities: dict[str, Identity]) -> None:
    node, host = await meet(place, Dialler(lambda: credentials(identities["kitchen"])))
    for each in (node, host):
        assert isinstance(each, Stream)
        assert (each.transport == "tls") is is_offloaded(each.socket)
    await close(node, host)


async def test_a_thief_with_a_key_of_his_own_does_not_get_in(
        place: Place, identities: dict[str, Identity]) -> None:
    node, host = await meet(place, Dialler(lambda: credentials(identities["thief"])))
    assert "certificate" in refusal(host)
    if isinstance(node, Stream):  # TLS 1.3: the host judges after our side is done
        with pytest.raises((ProtocolFault, RefusedFault)):
            await receive_exactly(node.socket, 1)
    await close(node, host)


async def test_who_shows_no_certificate_is_nobody(place: Place) -> None:
    node, host = await meet(place, Dialler(lambda: None))
    assert isinstance(host, Stream) and host.node is None and host.is_anonymous
    await close(node, host)


async def test_a_revoked_node_is_refused_from_then_on(place: Place, identities: dict[str, Identity]) -> None:
    place.guests.known.clear()
    place.guests.generation += 1
    node, host = await meet(place, Dialler(lambda: credentials(identities["kitchen"])))
    assert "certificate" in refusal(host)
    await close(node, host)


async def test_another_host_than_the_pinned_one_is_refused(
        place: Place, identities: dict[str, Identity]) -> None:
    address, port = place.socket.getsockname()
    pinned = Host("lab", address, port, Transport.TLS, fingerprint=identities["thief"].fingerprint)
    node, host = await meet(place, Dialler(lambda: credentials(identities["kitchen"])), pinned)
    assert "another certificate than the one pinned" in refusal(node)
    await close(host)


async def test_without_a_pin_nothing_is_dialled(place: Place, identities: dict[str, Identity]) -> None:
    with pytest.raises(RefusedFault, match="not known by certificate"):
        await Dialler(lambda: credentials(identities["kitchen"]))(Host("lab", "127.0.0.1", 9))
    place.socket.close()


async def test_plain_to_a_listener_that_takes_tls_only(place: Place) -> None:
    with socket.create_connection(place.socket.getsockname()) as peer:
        peer.sendall(bytes.fromhex("0111800600000000"))
        with pytest.raises(RefusedFault, match="plain connection, but this listener takes tls only"):
            await place.admit()
    place.socket.close()


async def test_garbage_at_the_door(place: Place) -> None:
    with socket.create_connection(place.socket.getsockname()) as peer:
        peer.sendall(b"\x16\x03" + b"garbage" * 100)
        with pytest.raises(ProtocolFault):
            await place.admit()
    with socket.create_connection(place.socket.getsockname()) as peer:
        peer.sendall(b"SSH-2.0-x\r\n")
        with pytest.raises(ProtocolFault, match="neither USB/IP nor TLS nor a WebSocket"):
            await place.admit()
    place.socket.close()


async def test_a_downgrade_is_refused(place: Place, identities: dict[str, Identity]) -> None:
    context = client_context(credentials(identities["kitchen"]))
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    peer = socket.create_connection(place.socket.getsockname())
    peer.setblocking(False)
    ours, theirs = await asyncio.gather(handshake(peer, context), place.admit(), return_exceptions=True)
    assert isinstance(ours, ProtocolFault) and isinstance(theirs, ProtocolFault)
    assert "version" in str(theirs)
    place.socket.close()


async def test_tls_to_somebody_who_speaks_none(identities: dict[str, Identity]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address, port = server.getsockname()
        entry = Host("lab", address, port, fingerprint=identities["lab"].fingerprint)
        dialled = asyncio.ensure_future(Dialler(lambda: None)(entry))
        server.setblocking(False)
        peer, _ = await asyncio.get_running_loop().sock_accept(server)
        with peer:
            peer.sendall(b"220 mail.example.net ESMTP\r\n")
            with pytest.raises(ProtocolFault, match="does not speak TLS"):
                await dialled


class EndedByTheKernel(socket.socket):
    """A socket in which an alert waits, as the kernel's TLS hands it over."""

    alert: int | None

    def recvmsg(self, *_sizes: int) -> tuple[bytes, list[tuple[int, int, bytes]], int, None]:
        if self.alert is None:
            raise ConnectionResetError
        return bytes([2, self.alert]), [(282, 2, b"\x15")], 0, None


@pytest.mark.parametrize(("transport", "alert", "said"), [
    ("tls", 48, "^the host does not know this node's certificate$"), ("tls", 45, "has expired$"),
    ("tls", 80, "^it hung up; it may not know"), ("tls", None, "^it hung up; it may not know"),
    ("plain", None, "^it hung up$")])
def test_why_a_host_hangs_up_on_us(transport: str, alert: int | None, said: str) -> None:
    with EndedByTheKernel() as ended:
        ended.alert = alert
        stream = Stream(ended, "10.9.0.1:3240", ipaddress.ip_address("10.9.0.1"), transport)
        fault = objection(stream, ProtocolFault("it hung up"))
    assert re.search(said, fault.what)
    assert isinstance(fault, ProtocolFault if transport == "plain" else RefusedFault)


def test_a_damaged_key_is_said_so(tmp_path: Path, identities: dict[str, Identity]) -> None:
    (tmp_path / "key").write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    with pytest.raises(IdentityFault, match=str(tmp_path / "key")):
        client_context(Credentials(identities["lab"].certificate, tmp_path / "key"))


def test_a_fingerprint_is_of_the_whole_certificate(identities: dict[str, Identity]) -> None:
    own = identities["lab"]
    assert own.fingerprint == fingerprint_of(certificate_der(own.pem))
    assert len({each.fingerprint for each in identities.values()}) == 3
