"""What a certificate is called, and what is none."""

from __future__ import annotations

import hashlib
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.identity.samples import VERSION_1, certificate, odd_certificate
from usbip_agent.identity.checking import complaint
from usbip_agent.transport.fingerprint import (
    LONGEST_CERTIFICATE, certificate_der, certificate_pem, fingerprint_bytes, fingerprint_of,
    parse_fingerprint)


def test_it_is_the_hash_of_the_der() -> None:
    der = certificate_der(certificate("pi"))
    assert der == ssl.PEM_cert_to_DER_cert(certificate("pi"))
    assert fingerprint_of(der) == "sha256:" + hashlib.sha256(der).hexdigest()
    assert fingerprint_bytes(fingerprint_of(der)) == hashlib.sha256(der).digest()
    assert certificate_der(certificate_pem(der)) == der


def test_text_around_a_certificate_is_no_part_of_it() -> None:
    assert certificate_der("Subject: pi\n" + certificate("pi") + "\n") == certificate_der(certificate("pi"))


PEM = certificate("pi")


@pytest.mark.parametrize("pem", [
    "", "x", PEM[:-30], PEM[30:], 2 * PEM, PEM + certificate("other"), PEM.replace("A", "!", 1),
    PEM.replace("A", "", 4), "-----END CERTIFICATE-----" + PEM[:-26], PEM.replace("\n", "ü\n"),
    "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", PEM + "x" * LONGEST_CERTIFICATE,
    "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"])
def test_what_is_no_certificate(pem: str) -> None:
    with pytest.raises(ValueError):
        certificate_der(pem)


def test_a_certificate_that_openssl_does_not_parse_is_none() -> None:
    der = bytearray(certificate_der(PEM))
    der[5] ^= 0xFF
    with pytest.raises(ValueError, match="no certificate"):
        certificate_der(ssl.DER_cert_to_PEM_cert(bytes(der)))


@pytest.mark.parametrize("pem", [odd_certificate("ca"), odd_certificate("signs"), VERSION_1],
                         ids=["ca", "signs", "version 1"])
def test_a_certificate_that_could_vouch_for_others_is_none(pem: str) -> None:
    with pytest.raises(ValueError, match="of a CA"):
        certificate_der(pem)


@given(st.text(max_size=200))
def test_no_text_breaks_it(text: str) -> None:
    with pytest.raises(ValueError):
        certificate_der("-----BEGIN CERTIFICATE-----" + text + "-----END CERTIFICATE-----")


@pytest.mark.parametrize("text", ["", "sha256:", "sha256:" + "0" * 63, "sha1:" + "0" * 40, "0" * 64,
                                  "sha256:" + "g" * 64, " sha256:" + "0" * 64, "sha256:" + "0" * 64 + "\n"])
def test_what_is_no_fingerprint(text: str) -> None:
    with pytest.raises(ValueError):
        parse_fingerprint(text)


@pytest.mark.parametrize("kind", ["p384", "rsa2048", "ed25519"])
def test_certificates_of_other_kinds_do(kind: str) -> None:
    assert complaint(odd_certificate(kind).encode()) == ""


@pytest.mark.parametrize(("kind", "why"), [
    ("p224", "secp224r1 is too small"), ("rsa1024", "1024 bits is too small"), ("ca", "certificate of a CA")])
def test_certificates_that_do_not_do(kind: str, why: str) -> None:
    assert why in complaint(odd_certificate(kind).encode())


@pytest.mark.parametrize("pem", [b"", b"\xff", PEM[:200].encode()])
def test_what_cannot_be_read_is_said_in_a_line(pem: bytes) -> None:
    assert "cannot be read" in complaint(pem) and "\n" not in complaint(pem)
