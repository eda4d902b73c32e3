"""The identity of this side: made once, kept for good, never silently replaced.

``identity.key`` (private key, and the certificate once more) is what counts, ``identity.pem`` is the
certificate alone. Both are 0600.
"""

from __future__ import annotations

import logging
import os
import re
import ssl
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from usbip_agent.errors import Fault, IdentityFault
from usbip_agent.identity.child import run_module
from usbip_agent.identity.files import FILE_MODE, read_file, write_file
from usbip_agent.transport.fingerprint import certificate_der, fingerprint_of
from usbip_agent.names import Service

log = logging.getLogger(__name__)

KEY_FILE: Final = "identity.key"
CERTIFICATE_FILE: Final = "identity.pem"

_LARGEST = 64 * 1024
_CERTIFICATE = re.compile("-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----\n?")
_CURE: Final = "restore it from a backup, or remove identity.key and identity.pem and enrol again"


@dataclass(frozen=True, slots=True)
class Identity:
    """Our certificate and key, as files, and what others know us by."""

    certificate: Path
    key: Path
    fingerprint: str

    @property
    def pem(self) -> str:
        """The certificate, as it is handed over. IdentityFault."""
        return _read(self.certificate) or ""


def state_directory(service: Service) -> Path:
    """Where *service* keeps its identity, for the daemon (systemd tells it) and for its commands alike."""
    return Path(os.environ.get("STATE_DIRECTORY", "").partition(":")[0] or service.state_directory)


def own_identity(service: Service) -> Identity | None:
    """The identity of *service*, made at its first start. Blocks then, for a child process's time.

    None, and a line in the journal, when there is one that cannot be used: plain connections go on.
    """
    try:
        return ensure_identity(state_directory(service), os.uname().nodename)
    except IdentityFault as fault:
        log.error("%s", fault)
        return None


def ensure_identity(directory: Path, name: str) -> Identity:
    """The identity in *directory*, made when there is none; *name* is what the certificate says. Blocks.

    IdentityFault when there is one that cannot be used, or when none can be made.
    """
    found = load_identity(directory)
    if found is not None:
        return found
    try:
        run_module("making", str(directory), name)
    except Fault as fault:
        raise IdentityFault(f"no key and certificate can be made: {fault.what}",
                            hint=f"see to {directory}") from None
    made = load_identity(directory)
    if made is None:
        raise IdentityFault(f"{directory} is empty again, somebody removed {KEY_FILE}")
    log.info("made a key and certificate in %s: %s", directory, made.fingerprint)
    return made


def load_identity(directory: Path) -> Identity | None:
    """The identity in *directory*, None when there is none.

    IdentityFault for one that is damaged, cannot be read, or of which only the certificate is left.
    """
    key, certificate = directory / KEY_FILE, directory / CERTIFICATE_FILE
    secret, shown = _read(key), _read(certificate)
    if secret is None:
        if shown is None:
            return None
        raise IdentityFault(f"{certificate} is there, but {key} is missing", hint=_CURE)
    inside = _CERTIFICATE.search(secret)
    if shown is None:
        if inside is None:
            raise IdentityFault(f"{key} is there, but {certificate} is missing", hint=_CURE)
        shown = inside[0]
        _finish(certificate, shown)
    try:
        der = certificate_der(shown)
        if inside is not None and certificate_der(inside[0]) != der:
            raise ValueError(f"it is not the one in {key}")
    except ValueError as error:
        raise IdentityFault(f"{certificate} is damaged: {error}", hint=_CURE) from None
    _check_key(certificate, key)
    _keep_private(key)
    return Identity(certificate, key, fingerprint_of(der))


def _finish(certificate: Path, pem: str) -> None:
    """What a power failure between the two files left to be done."""
    try:
        write_file(certificate, pem)
    except OSError as error:
        raise IdentityFault(f"{certificate} cannot be written: {error.strerror}") from None


def _check_key(certificate: Path, key: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # The password: OpenSSL would ask the terminal for that of an encrypted key.
        context.load_cert_chain(certificate, key, password=lambda: b"")
    except (ssl.SSLError, OSError, ValueError) as error:
        why = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise IdentityFault(f"{key} is damaged: {why}", hint=_CURE) from None


def _keep_private(key: Path) -> None:
    try:
        if stat.S_IMODE(key.stat().st_mode) & ~FILE_MODE:
            log.warning("%s was open to others, which is put right; but they may have read it", key)
            key.chmod(FILE_MODE)
    except OSError as error:
        log.warning("%s: %s", key, error.strerror)


def _read(path: Path) -> str | None:
    try:
        return read_file(path, _LARGEST)
    except OSError as error:
        hint = "it is for root and the daemon alone" if isinstance(error, PermissionError) else _CURE
        raise IdentityFault(f"{path} cannot be read: {error.strerror}", hint=hint) from None
    except ValueError as error:
        raise IdentityFault(f"{path} is damaged: {error}", hint=_CURE) from None
