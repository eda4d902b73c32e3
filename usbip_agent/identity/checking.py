"""Checks a certificate that a node wants to be known by: PEM on stdin, status 0 or one line on stderr."""

from __future__ import annotations

import sys

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

SMALLEST_CURVE = 256
SMALLEST_RSA = 2048
"""Bits, as OpenSSL's security level 2 has them: less would be refused in every handshake."""


def complaint(pem: bytes) -> str:
    """Why this certificate does not do; empty when it does."""
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        key = certificate.public_key()
        constraints = _basic_constraints(certificate)
    except Exception as problem:  # whatever the library makes of what a stranger sent
        return f"the certificate cannot be read: {type(problem).__name__}"
    if constraints is not None and constraints.ca:
        return "this is the certificate of a CA, which identifies no node"
    if isinstance(key, ec.EllipticCurvePublicKey):
        return "" if key.curve.key_size >= SMALLEST_CURVE else f"the curve {key.curve.name} is too small"
    if isinstance(key, rsa.RSAPublicKey):
        return "" if key.key_size >= SMALLEST_RSA else f"an RSA key of {key.key_size} bits is too small"
    if isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
        return ""
    return "the key is of none of the kinds EC, RSA, Ed25519, Ed448"


def _basic_constraints(certificate: x509.Certificate) -> x509.BasicConstraints | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        return None


if __name__ == "__main__":
    sys.exit(complaint(sys.stdin.buffer.read()) or 0)
