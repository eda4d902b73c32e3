"""Our own key and certificate: made once, whole or not at all, fit for TLS, never silently replaced."""

from __future__ import annotations

import os
import ssl
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.unit.identity.samples import certificate
from usbip_agent.errors import Fault, IdentityFault
from usbip_agent.identity import child, making
from usbip_agent.identity.own import Identity, ensure_identity, load_identity, state_directory
from usbip_agent.names import AGENT

ROOT = Path(__file__).parents[3]


@pytest.fixture
def identity(tmp_path: Path) -> Identity:
    making.make_in(tmp_path / "state", "pi-kitchen")
    found = load_identity(tmp_path / "state")
    assert found is not None
    return found


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_it_is_made_once(tmp_path: Path) -> None:
    state = tmp_path / "lib" / "usbip-agent"
    assert load_identity(state) is None
    made = ensure_identity(state, "pi-kitchen")
    assert ensure_identity(state, "another") == made == load_identity(state)
    assert [mode(path) for path in (state, made.key, made.certificate)] == [0o700, 0o600, 0o600]
    assert sorted(path.name for path in state.iterdir()) == ["identity.key", "identity.pem"]
    assert made.pem == made.certificate.read_text()


def test_the_certificate_says_what_it_should(identity: Identity) -> None:
    made = x509.load_pem_x509_certificate(identity.certificate.read_bytes())
    assert made.subject == made.issuer
    assert made.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "pi-kitchen"
    usage = made.extensions.get_extension_for_class(x509.KeyUsage).value
    extended = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert usage.digital_signature and not usage.key_cert_sign and not usage.crl_sign
    assert set(extended) == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}
    assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert isinstance(made.public_key(), ec.EllipticCurvePublicKey)


def test_it_never_expires_and_is_older_than_any_clock(identity: Identity) -> None:
    made = x509.load_pem_x509_certificate(identity.certificate.read_bytes())
    suffix = "_utc" if hasattr(made, "not_valid_before_utc") else ""  # cryptography 42 renamed them
    period = [getattr(made, f"not_valid_{end}{suffix}") for end in ("before", "after")]
    assert [each.strftime("%Y-%m-%d %H:%M:%S") for each in period] == [
        "1970-01-01 00:00:00", "9999-12-31 23:59:59"]


@pytest.mark.parametrize("name", ["", "n" * 200, "küche", "a b\x1b"])
def test_any_host_name_does(tmp_path: Path, name: str) -> None:
    making.make_in(tmp_path, name)
    assert load_identity(tmp_path) is not None


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_two_such_certificates_are_all_that_mutual_tls_needs(
        tmp_path: Path, version: ssl.TLSVersion) -> None:
    sides = {}
    for name in ("host", "node"):
        making.make_in(tmp_path / name, name)
        sides[name] = load_identity(tmp_path / name)
    host, node = sides["host"], sides["node"]
    assert host is not None and node is not None
    server = context(ssl.PROTOCOL_TLS_SERVER, host, node)
    client = context(ssl.PROTOCOL_TLS_CLIENT, node, host)
    client.minimum_version = client.maximum_version = version
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [server.wrap_bio(to_server, to_client, server_side=True), client.wrap_bio(to_client, to_server)]
    shake_hands(ends)
    assert ends[0].getpeercert(True) == ssl.PEM_cert_to_DER_cert(node.pem)
    assert ends[1].getpeercert(True) == ssl.PEM_cert_to_DER_cert(host.pem)


def context(protocol: int, own: Identity, trusted: Identity) -> ssl.SSLContext:
    made = ssl.SSLContext(protocol)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_REQUIRED
    made.load_cert_chain(own.certificate, own.key)
    made.load_verify_locations(cadata=trusted.pem)
    return made


def shake_hands(ends: list[ssl.SSLObject]) -> None:
    done: set[ssl.SSLObject] = set()
    for _ in range(10):
        for end in ends:
            try:
                end.do_handshake()
                done.add(end)
            except ssl.SSLWantReadError:
                pass
    assert len(done) == 2


@pytest.mark.parametrize("stop_at", [1, 2])
def test_a_power_failure_leaves_nothing_or_all(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int) -> None:
    class PowerFailure(BaseException):
        pass

    renames = []
    replace = os.replace

    def failing(source: Path, target: Path) -> None:
        renames.append(target)
        if len(renames) == stop_at:
            raise PowerFailure
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(PowerFailure):
        making.make_in(tmp_path, "pi")
    monkeypatch.undo()
    found = load_identity(tmp_path)
    if stop_at == 1:
        assert found is None
        making.make_in(tmp_path, "pi")
        found = load_identity(tmp_path)
    assert found is not None and found.certificate.exists()
    assert load_identity(tmp_path) == found
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".") and stop_at == 1]


def test_a_lost_certificate_is_made_of_the_key_file_again(identity: Identity) -> None:
    identity.certificate.unlink()
    assert load_identity(identity.key.parent) == identity
    assert mode(identity.certificate) == 0o600


def private_part(identity: Identity) -> str:
    return identity.key.read_text().partition("-----BEGIN CERTIFICATE-----")[0]


def test_a_key_file_without_the_certificate_does_beside_one(identity: Identity) -> None:
    identity.key.write_text(private_part(identity))
    assert load_identity(identity.key.parent) == identity


def damage(identity: Identity, how: str) -> None:
    match how:
        case "key missing":
            identity.key.unlink()
        case "key empty":
            identity.key.write_text("")
        case "key cut off":
            identity.key.write_text(identity.key.read_text()[:100])
        case "key alone":
            identity.key.write_text(private_part(identity))
            identity.certificate.unlink()
        case "key of another":
            identity.key.write_text(making.make("another")[0])
        case "key binary":
            identity.key.write_bytes(b"\xff" * 100)
        case "key endless":
            identity.key.write_bytes(b"x" * 100_000)
        case "key encrypted":
            identity.key.write_text(ENCRYPTED)
        case "key a directory":
            identity.key.unlink()
            identity.key.mkdir()
        case "certificate empty":
            identity.certificate.write_text("")
        case "certificate of another":
            identity.certificate.write_text(certificate("another"))
        case "certificate twice":
            identity.certificate.write_text(2 * identity.pem)


ENCRYPTED = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIH/\n-----END ENCRYPTED PRIVATE KEY-----\n"
DAMAGES = ["key missing", "key empty", "key cut off", "key alone", "key of another", "key binary",
           "key endless", "key encrypted", "key a directory", "certificate empty", "certificate of another",
           "certificate twice"]


@pytest.mark.parametrize("how", DAMAGES)
def test_what_is_damaged_is_said_and_left_alone(identity: Identity, how: str) -> None:
    damage(identity, how)
    state = identity.key.parent
    before = {path: path.read_bytes() for path in state.iterdir() if path.is_file()}
    with pytest.raises(IdentityFault) as caught:
        ensure_identity(state, "pi")
    assert "enrol again" in caught.value.hint and str(state) in caught.value.what
    assert "PRIVATE" not in str(caught.value)
    assert {path: path.read_bytes() for path in state.iterdir() if path.is_file()} == before


def test_a_key_that_others_may_read_is_closed_and_said(
        identity: Identity, caplog: pytest.LogCaptureFixture) -> None:
    identity.key.chmod(0o644)
    assert load_identity(identity.key.parent) == identity
    assert mode(identity.key) == 0o600 and "they may have read it" in caplog.text


def test_where_none_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(IdentityFault, match="no key and certificate can be made|cannot be read"):
        ensure_identity(tmp_path / "file", "pi")


def test_two_that_start_at_once_make_one(tmp_path: Path) -> None:
    found: list[Identity] = []
    threads = [threading.Thread(target=lambda: found.append(ensure_identity(tmp_path, "pi")))
               for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and len(set(found)) == 1


def test_the_daemon_does_not_load_cryptography(tmp_path: Path) -> None:
    program = ("import sys; from pathlib import Path; from usbip_agent.identity.own import ensure_identity; "
               f"ensure_identity(Path({str(tmp_path)!r}), 'pi'); "
               "import usbip_agent.identity.enrolment, usbip_agent.identity.desk; "
               "print('cryptography' in sys.modules)")
    said = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (said.stdout, said.stderr) == ("False\n", "")


def test_modules_that_lie_around_are_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cryptography.py", "datetime.py", "usbip_agent.py"):
        (tmp_path / name).write_text("raise SystemExit('run by root')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert ensure_identity(tmp_path / "state", "pi").key.exists()


def test_a_child_that_fails_says_why() -> None:
    with pytest.raises(Fault, match="certificate cannot be read"):
        child.run_module("checking", given="nonsense")


def test_where_the_state_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    assert state_directory(AGENT) == Path("/var/lib/usbip-agent")
    monkeypatch.setenv("STATE_DIRECTORY", "/a:/b")
    assert state_directory(AGENT) == Path("/a")
