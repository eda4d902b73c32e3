"""Text → value, for everything that stands in a configuration and is no pattern. Each raises ValueError."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from urllib.parse import urlsplit

from usbip_agent.policy.problems import quoted

Network = IPv4Network | IPv6Network

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_SCOPE = re.compile(r"[A-Za-z0-9._-]{1,15}")
_DIGITS = re.compile(r"[0-9]{1,5}")
_WSS_URL = re.compile(r"[!-~]{1,2048}")

_FINGERPRINT = re.compile(r"sha256:[0-9A-Fa-f]{64}")
_DURATION = re.compile(r"(?P<count>[0-9]{1,5})(?P<unit>s|min|m|h)")
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600}
_SERVICE = re.compile(r"_[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")

MAXIMUM_RULE_NAME = 128

DEAD_AFTER = 10.0
SHORTEST_DEAD_AFTER, LONGEST_DEAD_AFTER = 3, 600
"""Seconds without a sign of life after which a link is dead. Below, a lost packet would end it."""

SHORTEST_FAILBACK, LONGEST_FAILBACK = 10, 24 * 3600
"""Seconds that a preferred host must have been back for. Each return interrupts the device."""

SERVICE_PREFIX = "srv:"
"""In front of an address that DNS keeps as SRV records: ``srv:_usbipa._tcp.example.net``."""


def version_number(text: str) -> int:
    """1, the only version there is."""
    if text != "1":
        raise ValueError(f"{quoted(text)} is not known; this program reads version 1")
    return 1


def system_name(text: str) -> str:
    """The name of a host or node: up to 64 letters, digits, ``.``, ``_``, ``-``; no ``.`` or ``-`` in front.

    It becomes a file name (``agent.d/NAME.yaml``) and a command's argument.
    """
    if not _NAME.fullmatch(text):
        raise ValueError(f"{quoted(text)} is no name: up to 64 of A-Z a-z 0-9 . _ -, and no . or - in front")
    return text


def rule_name(text: str) -> str:
    """A name that fits a journal line. ``default`` is what status calls the default."""
    if not text.strip() or not text.isprintable() or len(text) > MAXIMUM_RULE_NAME:
        raise ValueError(f"{quoted(text)} is no name: up to {MAXIMUM_RULE_NAME} printable characters")
    if text == "default":
        raise ValueError('"default" is what applies when no rule matches: choose another name')
    return text


def four_hex_digits(text: str) -> str:
    """A vendor or product id, in lower case as sysfs has it."""
    if not re.fullmatch(r"[0-9A-Fa-f]{4}", text):
        raise ValueError(f"{quoted(text)} is not 4 hex digits")
    return text.lower()


def port_number(text: str) -> int:
    """1–65535."""
    number = int(text) if _DIGITS.fullmatch(text) else 0
    if not 1 <= number <= 65535:
        raise ValueError(f"{quoted(text)} is no port number (1 to 65535)")
    return number


def ip_literal(text: str) -> str:
    """An IPv4 or IPv6 address in its usual spelling; a link-local one may name its interface (``%eth0``)."""
    bare, percent, scope = text.partition("%")
    if text.startswith("["):
        raise ValueError(f"{quoted(text)}: write an IPv6 address without brackets, the port has its own key")
    try:
        address = ip_address(bare)
    except ValueError:
        raise ValueError(f"{quoted(text)} is no IP address") from None
    if percent and not (isinstance(address, IPv6Address) and _SCOPE.fullmatch(scope)):
        raise ValueError(f"{quoted(text)} is no IP address")
    return f"{address}{percent}{scope}"


def host_address(text: str) -> str:
    """A host name (RFC 1123, ``_`` allowed) or an IP address."""
    if "@" in text:
        raise ValueError(f"{quoted(text)} is neither a host name nor an IP address")
    if ":" in text or text.startswith("["):
        try:
            return ip_literal(text)
        except ValueError as error:
            if text.count(":") == 1:
                raise ValueError(f"{quoted(text)} is no host name: the port has its own key, port:") from None
            raise error
    labels = text.removesuffix(".").split(".")
    if labels[-1].isdigit():
        return ip_literal(text)
    if len(text) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(f"{quoted(text)} is neither a host name nor an IP address")
    return text


def destination(text: str) -> str:
    """A host name, an IP address, or ``srv:_service._tcp.domain``: whatever its SRV records name.

    A service comes back with ``_tcp`` in lower case and without a dot at its end.
    """
    if not text.startswith(SERVICE_PREFIX):
        return host_address(text)
    name = text.removeprefix(SERVICE_PREFIX)
    service, _, rest = name.partition(".")
    protocol, _, domain = rest.partition(".")
    if not _SERVICE.fullmatch(service) or not protocol.startswith("_"):
        raise ValueError(f"{quoted(text)} is no service: write srv:_usbipa._tcp.example.net")
    if protocol.lower() != "_tcp":
        raise ValueError(f"{quoted(text)}: USB/IP runs over TCP, write _tcp")
    labels = domain.removesuffix(".").split(".")
    if len(name) > 253 or labels[-1].isdigit() or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(f"{quoted(text)} is no service: a domain must follow _tcp, and no port: DNS has it")
    return f"{SERVICE_PREFIX}{service}._tcp.{domain.removesuffix('.')}"


def listening_address(text: str) -> str:
    """An IP address of this machine, or ``*`` for all of both families."""
    return text if text == "*" else ip_literal(text)


def wss_url(text: str) -> str:
    """``wss://host[:port]/path``; credentials and fragments have no place in it."""
    if not text.startswith("wss://") or not _WSS_URL.fullmatch(text):
        raise ValueError(f"{quoted(text)} is no wss://host/path")
    try:
        parts = urlsplit(text)
        port = parts.port
        host_address(parts.hostname or "")
    except ValueError:  # its words may hold what is a password
        raise ValueError(f"{quoted(text)} is no wss://host/path") from None
    if port == 0 or parts.username is not None or parts.password is not None or "#" in text:
        raise ValueError(f"{quoted(text)}: a port 0, a user or a # has no place here")
    return text


def certificate_fingerprint(text: str) -> str:
    """``sha256:`` and 64 hex digits, in lower case: the hash of a certificate's DER."""
    if not _FINGERPRINT.fullmatch(text):
        raise ValueError(f"{quoted(text)} is no fingerprint: sha256: and 64 hex digits")
    return text.lower()


def absolute_path(text: str) -> Path:
    """The absolute path of a file; whether it exists is found out when it is used."""
    if not text.startswith("/") or not text.isprintable():
        raise ValueError(f"{quoted(text)} is no absolute path")
    return Path(text)


def duration(text: str, shortest: int, longest: int) -> float:
    """``90s``, ``10m`` (or ``10min``) or ``2h``, in seconds; *shortest* and *longest* are seconds too."""
    found = _DURATION.fullmatch(text)
    seconds = int(found["count"]) * _SECONDS[found["unit"]] if found else 0
    if not shortest <= seconds <= longest:
        raise ValueError(f"{quoted(text)} is no time from {_shown_time(shortest)} to {_shown_time(longest)}:"
                         " write 10s or 2m")
    return float(seconds)


def _shown_time(seconds: int) -> str:
    unit = next(unit for unit in ("h", "m", "s") if seconds % _SECONDS[unit] == 0)
    return f"{seconds // _SECONDS[unit]}{unit}"


def dead_after_time(text: str) -> float:
    """From 3 s to 10 min, in seconds."""
    return duration(text, SHORTEST_DEAD_AFTER, LONGEST_DEAD_AFTER)


def failback_time(text: str) -> float:
    """From 10 s to a day, in seconds."""
    return duration(text, SHORTEST_FAILBACK, LONGEST_FAILBACK)


def network(text: str) -> Network:
    """``10.9.0.0/24``; a bare address is the network of itself alone."""
    address, slash, length = text.partition("/")
    # ipaddress also takes netmasks and wildcard masks; "/0.0.0.0" would be the widest network of all.
    if "%" in text or slash and not re.fullmatch(r"[0-9]{1,3}", length):
        raise ValueError(f"{quoted(text)} is no network: write address/prefix length")
    try:
        found = ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{quoted(text)} is no network: write address/prefix length") from None
    if ip_address(address) != found.network_address:
        raise ValueError(f"{quoted(text)} has bits set behind its prefix: {found} is the network")
    if isinstance(found, IPv6Network) and found.network_address.ipv4_mapped is not None:
        raise ValueError(f"{quoted(text)}: peers are compared as IPv4 addresses, write it as one")
    return found
