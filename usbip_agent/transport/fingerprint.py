"""What a certificate is called: the SHA-256 of its DER."""

from __future__ import annotations

import hashlib
import ssl
from typing import Final

from usbip_agent.policy.values import certificate_fingerprint

PREFIX: Final = "sha256:"

LONGEST_CERTIFICATE: Final = 12 * 1024
"""Characters of a PEM certificate; RSA with 8192 bits and many names stays below."""

_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


def fingerprint_of(der: bytes) -> str:
    """``sha256:`` and 64 hex digits."""
    return PREFIX + hashlib.sha256(der).hexdigest()


def parse_fingerprint(text: str) -> str:
    """A fingerprint in its one spelling. ValueError when it is none."""
    return certificate_fingerprint(text)


def fingerprint_bytes(fingerprint: str) -> bytes:
    """The 32 bytes that a fingerprint shows. ValueError when it is none."""
    return bytes.fromhex(parse_fingerprint(fingerprint).removeprefix(PREFIX))


def certificate_der(pem: str) -> bytes:
    """The DER of the one certificate in *pem*, which OpenSSL has parsed, and which can vouch for no other.

    ValueError when there is not one, or when it is that of a CA: among those that are trusted, it would let
    its holder make certificates in any name.
    """
    if len(pem) > LONGEST_CERTIFICATE:
        raise ValueError(f"longer than {LONGEST_CERTIFICATE} characters")
    if pem.count(_BEGIN) != 1 or pem.count(_END) != 1 or not pem.isascii():
        raise ValueError("not one certificate in PEM")
    block = pem[pem.index(_BEGIN):pem.index(_END) + len(_END)] if pem.index(_BEGIN) < pem.index(_END) else ""
    try:
        der = ssl.PEM_cert_to_DER_cert(block)
        # A certificate that does not parse would spoil the list of all that are trusted.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_verify_locations(cadata=der)
        found = context.cert_store_stats()
    except (ssl.SSLError, ValueError) as error:
        raise ValueError(f"no certificate: {getattr(error, 'reason', None) or error}") from None
    if found["x509"] != 1:
        raise ValueError("not one certificate")
    if found["x509_ca"]:
        # OpenSSL's own judgement (X509_check_ca): basic constraints, key usage, version 1.
        raise ValueError("this is the certificate of a CA, which identifies nobody")
    return der


def certificate_pem(der: bytes) -> str:
    """*der* in PEM, and nothing beside it."""
    return ssl.DER_cert_to_PEM_cert(der)
