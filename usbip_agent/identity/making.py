"""Makes an identity: ``python3 -m usbip_agent.identity.making DIRECTORY NAME``. See ``own``."""

from __future__ import annotations

import datetime
import fcntl
import os
import sys
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from usbip_agent.identity.files import DIRECTORY_MODE, write_file
from usbip_agent.identity.own import CERTIFICATE_FILE, KEY_FILE

# A clock that is wrong, as that of a Pi before it has seen the network, must not make it invalid.
NOT_BEFORE = datetime.datetime(1970, 1, 1)
NOT_AFTER = datetime.datetime(9999, 12, 31, 23, 59, 59)

_LONGEST_COMMON_NAME = 64
"""X.520's upper bound."""


def make(name: str) -> tuple[str, str]:
    """A new private key and its certificate, in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:_LONGEST_COMMON_NAME] or "usbip")])
    usage = x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=False, crl_sign=False, encipher_only=False, decipher_only=False)
    both = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH])
    certificate = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(NOT_BEFORE).not_valid_after(NOT_AFTER)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True).add_extension(both, critical=False)
        .sign(key, hashes.SHA256()))
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                serialization.NoEncryption())
    return private.decode("ascii"), certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")


def make_in(directory: Path, name: str) -> None:
    """Makes the identity in *directory*, unless another process has been there first."""
    directory.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
    lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (directory / KEY_FILE).exists() or (directory / CERTIFICATE_FILE).exists():
            return
        key, certificate = make(name)
        # The key's file holds the certificate as well: with this one rename the identity is complete, and
        # whoever finds the certificate's own file missing makes it of this one.
        write_file(directory / KEY_FILE, key + certificate)
        write_file(directory / CERTIFICATE_FILE, certificate)
    finally:
        os.close(lock)


if __name__ == "__main__":
    try:
        make_in(Path(sys.argv[1]), sys.argv[2])
    except OSError as problem:
        sys.exit(f"{problem.filename or sys.argv[1]}: {problem.strerror}")
