"""Who is who: a PKI's certificates, a node that is revoked, a host that was set up anew."""
from __future__ import annotations

import datetime
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from . import encrypted, product
from .devices import Stick
from .guest import Guest
from .pair import Pair
from .product import AGENT, SLOW, USBIPA
from .test_attacks import another_plug_works, until_logged

DAY = datetime.timedelta(days=1)
PKI = {AGENT: "/etc/usbip-agent/pki", USBIPA: "/etc/usbipa/pki"}


@dataclass
class Authority:
    """A certificate authority."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def make(cls, name: str) -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        return cls(key, _signed(name, key, name, key, days=100, is_ca=True))

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def sign(self, name: str, days: int = 30) -> tuple[bytes, bytes]:
        """A certificate for *name* and its key; with negative *days* it has expired."""
        key = ec.generate_private_key(ec.SECP256R1())
        issuer = self.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
        made = _signed(name, key, str(issuer), self.key, days=days, is_ca=False)
        return made.public_bytes(serialization.Encoding.PEM), key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _signed(name: str, key: ec.EllipticCurvePrivateKey, issuer: str, by: ec.EllipticCurvePrivateKey,
            *, days: int, is_ca: bool) -> x509.Certificate:
    now = datetime.datetime.now(datetime.timezone.utc)
    usage = x509.KeyUsage(True, False, False, False, False, is_ca, is_ca, False, False)
    return (
        x509.CertificateBuilder().public_key(key.public_key()).serial_number(x509.random_serial_number())
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .not_valid_before(now - 60 * DAY).not_valid_after(now + days * DAY)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key()), critical=False)
        .sign(by, hashes.SHA256()))


def equip(guest: Guest, service: str, authority: Authority, credentials: tuple[bytes, bytes]) -> str:
    """Puts a PKI's files where the daemon may read them; returns the keys that name them."""
    place, owner = PKI[service], "usbipa" if service == USBIPA else "root"
    guest.sh(f"install -d -m 700 {place}")
    for name, data in (("ca", authority.pem), ("cert", credentials[0]), ("key", credentials[1])):
        guest.put(f"{place}/{name}.pem", data, 0o600)
    guest.sh(f"chown -R {owner} {place}")
    return f", ca: {place}/ca.pem, certificate: {place}/cert.pem, key: {place}/key.pem"


def dial_with(node: Guest, authority: Authority, credentials: tuple[bytes, bytes]) -> None:
    keys = equip(node, AGENT, authority, credentials)
    product.configure(node, AGENT, "\n".join([
        "version: 1", "hosts:", f"  host: {{address: host{keys}}}", "rules:", f"  - {encrypted.RULE}", ""]))


def test_certificates_of_an_authority(pair: Pair) -> None:
    """Neither side takes an expired certificate, one of a foreign authority, or one of another name."""
    node, host = pair.node, pair.host
    ours, foreign = Authority.make("the lab"), Authority.make("the lab")
    good = ours.sign(encrypted.NODE)
    encrypted.listen(host, more=equip(host, USBIPA, ours, ours.sign("host")))
    stick = Stick(1 << 20)
    busid = node.plug(stick, 1)
    for credentials, logged in (
            (ours.sign(encrypted.NODE, -3), "its certificate is not accepted: certificate has expired"),
            (foreign.sign(encrypted.NODE), "its certificate is not accepted: .*(signature|issuer)"),
            (ours.sign("pi-garden"), f"refused EXPORT of {busid} .* of pi-garden ")):
        dial_with(node, ours, credentials)
        until_logged(host, logged)
        product.until_state(node, busid, "waiting")
        assert product.devices(node)[busid]["reason"]
        assert product.imports(host) == {}

    for credentials, reason in (
            (ours.sign("host", -3), "not accepted: certificate has expired"),
            (foreign.sign("host"), "not accepted: .*(signature|issuer)"),
            (ours.sign("another"), "not accepted: .*Hostname mismatch")):
        equip(host, USBIPA, ours, credentials)
        host.sh(f"systemctl restart {USBIPA}", SLOW)
        dial_with(node, ours, good)
        node.run(["usbip-agent", "connect", "-b", busid, "-r", "host"], SLOW, check=False)
        product.until_reason(node, busid, reason)

    equip(host, USBIPA, ours, ours.sign("host"))
    host.sh(f"systemctl restart {USBIPA}", SLOW)
    node.run(["usbip-agent", "connect", "-b", busid, "-r", "host"], SLOW, check=False)
    product.until_state(node, busid, "connected")
    assert product.devices(node)[busid]["transport"] == "tls"
    assert product.imports(host)[busid]["node"] == encrypted.NODE
    assert host.disk_hash(stick) == stick.sha256


def test_a_node_is_revoked_and_comes_back(pair: Pair) -> None:
    node, host = pair.node, pair.host
    encrypted.listen(host)
    encrypted.enrol(pair)
    stick = Stick(1 << 20)
    busid = encrypted.connected(pair, stick, "tls")
    host.run(["usbipa", "revoke", encrypted.NODE], SLOW)
    assert product.imports(host) == {}
    host.run(f"! {product.TAKEN_PORTS}")
    until_logged(host, f"ended {busid} .*{encrypted.NODE} was revoked")
    product.until_state(node, busid, "waiting")
    product.until_reason(node, busid, "the host does not know this node.*s certificate")
    until_logged(host, "its certificate is not accepted")
    said = node.run(["usbip-agent", "doctor", "--json"], SLOW, check=False).json["checks"]
    [finding] = [each for each in said if each["name"] == "host host"]
    assert finding["outcome"] == "failed" and "usbip-agent join" in finding["cure"], finding
    assert host.run(["usbipa", "nodes", "--json"], SLOW).json["nodes"] == []
    said = product.failure(host, f"usbipa revoke {encrypted.NODE}", 1)
    assert "no node pi-kitchen is enrolled here" in said

    encrypted.enrol(pair)
    product.until_state(node, busid, "connected")
    assert host.disk_hash(stick) == stick.sha256
    another_plug_works(pair)


def test_a_host_that_was_set_up_anew(pair: Pair) -> None:
    """It may be somebody else: the node refuses until a person says otherwise."""
    node, host = pair.node, pair.host
    encrypted.listen(host)
    encrypted.enrol(pair)
    stick = Stick(1 << 20)
    busid = encrypted.connected(pair, stick, "tls")
    host.sh("systemctl stop usbipa; find /var/lib/usbipa/ -type f -delete; systemctl start usbipa", SLOW)
    product.until_reason(node, busid, "the host shows another certificate than the one pinned here")
    assert product.imports(host) == {}
    code = encrypted.invite(host)
    said = product.failure(node, f"usbip-agent join {code}", 2)
    assert "pins another certificate" in said and "--replace" in said, said
    node.run(["usbip-agent", "join", code, "--replace"], SLOW)
    product.until_state(node, busid, "connected")
    assert host.disk_hash(stick) == stick.sha256
