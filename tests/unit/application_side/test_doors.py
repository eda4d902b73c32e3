"""Certificates, keys and authorities that are renewed while the daemon runs."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
from pathlib import Path

import pytest

from tests.unit.application_side.side import FakeGuests
from usbip_agent.application_side import doors
from usbip_agent.application_side.doors import Doors
from usbip_agent.errors import Fault, IdentityFault, RefusedFault
from usbip_agent.transport.fingerprint import fingerprint_of
from usbip_agent.identity.own import Identity, ensure_identity
from usbip_agent.policy.listeners import Listener
from usbip_agent.policy.transports import ListenerTransport
from usbip_agent.transport.stream import Stream
from usbip_agent.transport.tls import Credentials, client_context, handshake, peer_certificate, server_context


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return ensure_identity(tmp_path_factory.mktemp("before"), "node-before")


@pytest.fixture(scope="module")
def after(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return ensure_identity(tmp_path_factory.mktemp("after"), "node-after")


class Host:
    """A listener with files of its own, and the doors behind it."""

    def __init__(self, directory: Path) -> None:
        self.certificate, self.key, self.ca = (
            directory / name for name in ("host.pem", "host.key", "ca.pem"))
        self._listener = Listener(
            "127.0.0.1", 0, frozenset({ListenerTransport.TLS}), self.ca, self.certificate, self.key)
        self._doors = Doors(None, FakeGuests(), lambda: 10.0)

    async def meets(self, node: Identity) -> tuple[str, str | None]:
        """The fingerprint that *node* is shown, and the name by which it is let in. Fault."""
        with socket.create_server(("127.0.0.1", 0)) as listening:
            near = socket.create_connection(listening.getsockname())
            far, _ = listening.accept()
        near.setblocking(False)
        far.setblocking(False)
        admission = asyncio.create_task(self._admit(far))
        try:
            tls = await handshake(near, client_context(Credentials(node.certificate, node.key)))
        except Fault:
            await admission  # which knows why
            raise
        with tls:
            stream = await admission
            await stream.close()
            return fingerprint_of(peer_certificate(tls) or b""), stream.node

    async def _admit(self, connection: socket.socket) -> Stream:
        try:
            return await self._doors.establish(connection, self._listener)
        except BaseException:
            connection.close()
            raise


@pytest.fixture
def host(tmp_path: Path, before: Identity) -> Host:
    host = Host(tmp_path)
    renew(host.certificate, before.certificate)
    renew(host.key, before.key)
    renew(host.ca, before.certificate)
    return host


def renew(file: Path, by: Path) -> None:
    shutil.copy(by, file.with_suffix(".new")).replace(file)


async def test_a_renewed_certificate_is_shown_from_the_next_connection_on(
        host: Host, before: Identity, after: Identity, caplog: pytest.LogCaptureFixture) -> None:
    assert await host.meets(before) == (before.fingerprint, "node-before")
    renew(host.certificate, after.certificate)
    assert await host.meets(before) == (before.fingerprint, "node-before"), "their key is still to come"
    assert f"still in use: {host.certificate}" in caplog.text
    renew(host.key, after.key)
    assert await host.meets(before) == (after.fingerprint, "node-before")


async def test_another_authority_lets_others_in(host: Host, before: Identity, after: Identity) -> None:
    assert (await host.meets(before))[1] == "node-before"
    with pytest.raises(RefusedFault):
        await host.meets(after)
    renew(host.ca, after.certificate)
    assert (await host.meets(after))[1] == "node-after"
    with pytest.raises(RefusedFault):
        await host.meets(before)


async def test_files_that_stay_are_read_once(
        host: Host, before: Identity, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[object] = []

    def counted(own: Credentials, trusted: str, ca: Path | None) -> ssl.SSLContext:
        reads.append(ca)
        return server_context(own, trusted, ca)

    monkeypatch.setattr(doors, "server_context", counted)
    await host.meets(before)
    await host.meets(before)
    assert len(reads) == 1


async def test_what_was_never_any_good_lets_nobody_in(host: Host, before: Identity) -> None:
    host.key.unlink()
    with pytest.raises(IdentityFault, match=str(host.key)):
        await host.meets(before)
