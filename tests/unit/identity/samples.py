"""Certificates, moments and codes that the tests of identity share."""

from __future__ import annotations

import datetime
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from usbip_agent.identity.codes import SECRET_BYTES, Moment
from usbip_agent.transport.fingerprint import certificate_der, fingerprint_of
from usbip_agent.identity.join_code import JoinCode
from usbip_agent.identity.making import make

NOON = Moment(uptime=5000.0, wall=1_800_000_000.0)
FINGERPRINT = "sha256:" + "5a" * 32
SECRET = bytes(range(SECRET_BYTES))
CODE = JoinCode("lab.example.net", 3240, FINGERPRINT, SECRET, "pi-kitchen", "lab")

VERSION_1 = """\
-----BEGIN CERTIFICATE-----
MIIBFzCBvQIUNHXFFCvR7BEBzkheSGDz42wNeIgwCgYIKoZIzj0EAwIwDTELMAkG
A1UEAwwCdjEwIBcNMjYxMTIyMjM1OTAyWhgPMjEyNjEwMjkyMzU5MDJaMA0xCzAJ
BgNVBAMMAnYxMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgGMd7VWGeLVq/kK5
CxA6cQ0QXK3/y3nN4fHCJ/kZF8bWAjA56GH3Ww3eyXP5i0rUd8vp1O/QoQSB5QZo
HzaXWTAKBggqhkjOPQQDAgNJADBGAiEAhPeLQMNI9gBN+KaUr3apOCM6MydPACsq
VRoYOFVdhfkCIQCbmhHEH6O5uWLFC5EIKhmiO9aE1tpu6d+Yl6KJPvtgNg==
-----END CERTIFICATE-----
"""
"""Self-signed, without extensions: OpenSSL lets such a one vouch for others."""


def later(seconds: float, moment: Moment = NOON) -> Moment:
    return Moment(moment.uptime + seconds, moment.wall + seconds)


@cache
def certificate(name: str) -> str:
    """The certificate (PEM) that the side called *name* makes for itself."""
    return make(name)[1]


def fingerprint(name: str) -> str:
    return fingerprint_of(certificate_der(certificate(name)))


@cache
def odd_certificate(kind: str) -> str:
    """A certificate of another *kind* than we make ourselves."""
    keys: dict[str, Any] = {
        "p224": lambda: ec.generate_private_key(ec.SECP224R1()),
        "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
        "rsa1024": lambda: rsa.generate_private_key(65537, 1024),
        "rsa2048": lambda: rsa.generate_private_key(65537, 2048),
        "ed25519": ed25519.Ed25519PrivateKey.generate,
    }
    key = keys.get(kind, keys["p384"])()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, kind)])
    builder = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(7).not_valid_before(datetime.datetime(2020, 1, 1))
        .not_valid_after(datetime.datetime(2040, 1, 1)))
    if kind == "ca":
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    if kind == "signs":
        builder = builder.add_extension(x509.KeyUsage(
            digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
            key_agreement=False, key_cert_sign=True, crl_sign=False, encipher_only=False,
            decipher_only=False), critical=True)
    signed = builder.sign(key, None if kind == "ed25519" else hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM).decode("ascii")
