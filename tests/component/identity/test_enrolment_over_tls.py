"""The whole way over real TLS: invited, enrolled, known, revoked; and who forges certificates stays out."""

from __future__ import annotations

import asyncio
import datetime
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.unit.identity.samples import certificate

from usbip_agent.application_side.doors import Doors
from usbip_agent.errors import Fault, RefusedFault
from usbip_agent.identity import making
from usbip_agent.identity.codes import Moment
from usbip_agent.identity.enrolment import request_enrolment, serve_enrolment
from usbip_agent.identity.join_code import JoinCode
from usbip_agent.identity.own import Identity, load_identity
from usbip_agent.identity.registrar import Registrar
from usbip_agent.policy.hosts import Host
from usbip_agent.policy.listeners import Listener
from usbip_agent.policy.transports import ListenerTransport
from usbip_agent.transport.dial import DIAL_TO_ENROL, Dialler
from usbip_agent.transport.stream import Stream, receive_exactly, send_all
from usbip_agent.transport.tls import Credentials


def identity_in(directory: Path, name: str) -> Identity:
    making.make_in(directory, name)
    made = load_identity(directory)
    assert made is not None
    return made


def credentials_of(identity: Identity) -> Callable[[], Credentials]:
    return lambda: Credentials(identity.certificate, identity.key)


@dataclass
class TlsHost:
    """Lets in by TLS alone; says to each peer who it is taken for, or serves its enrolment."""

    registrar: Registrar
    doors: Doors
    listening: socket.socket

    @property
    def port(self) -> int:
        return int(self.listening.getsockname()[1])

    def invite(self, node: str) -> JoinCode:
        return self.registrar.enroll(node, "127.0.0.1", self.port, Moment.now())

    async def serve(self) -> None:
        listener = Listener("127.0.0.1", self.port, frozenset({ListenerTransport.TLS}))
        while True:
            connection, _ = await asyncio.get_running_loop().sock_accept(self.listening)
            try:
                stream = await self.doors.establish(connection, listener)
            except Fault:
                connection.close()
                continue
            await self._answer(stream)
            await stream.close()

    async def _answer(self, stream: Stream) -> None:
        if stream.node is None:
            await serve_enrolment(stream, self.registrar)
        else:
            await send_all(stream.socket, stream.node.ljust(16).encode())


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[TlsHost]:
    own = identity_in(tmp_path / "host", "lab")
    registrar = Registrar(tmp_path / "host", tmp_path / "run", host="lab", fingerprint=own.fingerprint)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        doors = Doors(credentials_of(own)(), registrar.known, lambda: 10.0)
        running = TlsHost(registrar, doors, listening)
        task = asyncio.create_task(running.serve())
        try:
            yield running
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def entry(code: JoinCode) -> Host:
    return Host("lab", code.address, code.port, fingerprint=code.fingerprint)


async def join(code: JoinCode, pem: str) -> None:
    stream = await DIAL_TO_ENROL(entry(code))
    try:
        await request_enrolment(stream, code, pem)
    finally:
        await stream.close()


async def taken_for(code: JoinCode, identity: Identity) -> str:
    """The name that the host has for who holds *identity*. Fault when it is not let in."""
    stream = await Dialler(credentials_of(identity))(entry(code))
    try:
        return (await receive_exactly(stream.socket, 16)).decode().strip()
    finally:
        await stream.close()


async def test_from_invited_to_revoked(host: TlsHost, tmp_path: Path) -> None:
    node = identity_in(tmp_path / "node", "whatever")
    code = host.invite("pi-kitchen")
    with pytest.raises(Fault):
        await taken_for(code, node)
    await join(code, node.pem)
    assert await taken_for(code, node) == "pi-kitchen", "at once, without a restart"
    host.registrar.revoke("pi-kitchen", Moment.now())
    with pytest.raises(Fault):
        await taken_for(code, node)


async def test_the_secret_goes_to_nobody_but_the_host(host: TlsHost) -> None:
    code = replace(host.invite("pi"), fingerprint="sha256:" + "77" * 32)
    with pytest.raises(RefusedFault, match="another certificate"):
        await join(code, certificate("pi"))
    assert host.registrar.nodes() == ()


async def test_an_enrolled_node_can_be_nobody_else(host: TlsHost, tmp_path: Path) -> None:
    """Its certificate is trusted, but what it signs with that key is not."""
    node = identity_in(tmp_path / "node", "pi")
    code = host.invite("pi")
    await join(code, node.pem)
    victim = host.invite("victim")
    await join(victim, certificate("victim"))
    for directory, issuer in ((tmp_path / "forged", node), (tmp_path / "self", None)):
        with pytest.raises(Fault):
            await taken_for(code, forged_in(directory, "victim", issuer))
    assert await taken_for(code, node) == "pi"


def forged_in(directory: Path, name: str, issuer: Identity | None) -> Identity:
    """A certificate in *name* for a key of our own, signed by the key of *issuer* or by itself."""
    directory.mkdir()
    key = ec.generate_private_key(ec.SECP256R1())
    subject = signer_name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    signer = key
    if issuer is not None:
        loaded = serialization.load_pem_private_key(issuer.key.read_bytes(), None)
        assert isinstance(loaded, ec.EllipticCurvePrivateKey)
        signer, signer_name = loaded, x509.load_pem_x509_certificate(issuer.pem.encode()).subject
    signed = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(signer_name).public_key(key.public_key())
        .serial_number(5).not_valid_before(datetime.datetime(2020, 1, 1))
        .not_valid_after(datetime.datetime(2090, 1, 1))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(signer, hashes.SHA256()))
    pem = signed.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                serialization.NoEncryption())
    (directory / "identity.key").write_bytes(private + pem)
    (directory / "identity.pem").write_bytes(pem)
    loaded_identity = load_identity(directory)
    assert loaded_identity is not None
    return loaded_identity
