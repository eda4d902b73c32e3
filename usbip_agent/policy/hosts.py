"""The hosts that a device side may connect to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from usbip_agent.names import DEFAULT_PORT
from usbip_agent.policy.credentials import CREDENTIALS, require_whole_credentials
from usbip_agent.policy.document import Entry, Mapping
from usbip_agent.policy.keys import choice, key as keyed, mapping_of, one, read_keys, text_of
from usbip_agent.policy.problems import Place, Problems, quoted
from usbip_agent.policy.proxy import Proxy, proxy_url
from usbip_agent.policy.transports import Transport
from usbip_agent.policy.values import (
    DEAD_AFTER, SERVICE_PREFIX, absolute_path, certificate_fingerprint, dead_after_time, destination,
    port_number, system_name, wss_url)


@dataclass(frozen=True, slots=True)
class Host:
    """One entry of ``hosts``. With WSS the *url* says where and *address* is empty; else the reverse."""

    name: str
    address: str = keyed(one(destination), default="")
    """A name, an IP address, or ``srv:…``; then *port* means nothing, as each record has its own."""
    port: int = keyed(one(port_number), default=DEFAULT_PORT)
    transport: Transport = keyed(one(choice(Transport)), default=Transport.TLS)
    url: str = keyed(one(wss_url), default="")
    fingerprint: str = keyed(one(certificate_fingerprint), default="")
    """The host's certificate, ``sha256:…``; also with WSS: the certificate inside the WebSocket."""
    proxy: Proxy | None = keyed(one(proxy_url), default=None)
    """The HTTP proxy that the connection goes through."""
    ca: Path | None = keyed(one(absolute_path), default=None)
    certificate: Path | None = keyed(one(absolute_path), default=None)
    key: Path | None = keyed(one(absolute_path), default=None)
    dead_after: float = keyed(one(dead_after_time), default=DEAD_AFTER, compare=False)
    """Seconds without a sign of life after which the link is dead. With another, it is the same host."""

    @property
    def service(self) -> str:
        """The name whose SRV records say where the host is; empty when *address* says it."""
        return self.address.removeprefix(SERVICE_PREFIX) if self.address.startswith(SERVICE_PREFIX) else ""


@dataclass(frozen=True, slots=True)
class DeclaredHost:
    """A host and where it is declared."""

    host: Host
    place: Place


@dataclass(frozen=True, slots=True)
class HostName:
    """A host as a rule names it."""

    name: str
    place: Place = field(compare=False)


def read_hosts(entry: Entry, problems: Problems) -> tuple[DeclaredHost, ...] | None:
    """The section ``hosts``, in the order of the file. It may be empty, also by being commented out."""
    if entry.is_missing:
        return ()
    mapping = mapping_of(entry, problems)
    if mapping is None:
        return None
    return tuple(DeclaredHost(_read_host(each, problems), each.place) for each in mapping.entries)


def _read_host(entry: Entry, problems: Problems) -> Host:
    # A host that cannot be read keeps its name, or every rule that names it would seem wrong as well.
    try:
        system_name(entry.name)
    except ValueError as error:
        problems.add(entry.place, f"hosts: {error}")
    mapping = mapping_of(entry, problems)
    if mapping is None:
        return Host(entry.name)
    before = len(problems)
    host = read_keys(Host, mapping, problems, what=f"host {quoted(entry.name)}", name=entry.name)
    if len(problems) == before:
        _require_one_destination(host, mapping, problems)
        _require_one_identity(host, mapping, problems)
    return host


def _require_one_destination(host: Host, mapping: Mapping, problems: Problems) -> None:
    over_web = host.transport is Transport.WSS
    wanted = "url" if over_web else "address"
    if mapping.get(wanted) is None:
        message = f"host {quoted(host.name)} needs {wanted}: its transport is {host.transport}"
        problems.add(mapping.place, message)
    for name in ("address", "port") if over_web else ("url",):
        if entry := mapping.get(name):
            problems.add(entry.place, f"{name} has no place beside transport {host.transport}")
    for name, why in (("port", "the SRV records have it"), ("proxy", "it is asked for names, not services")):
        if host.service and (entry := mapping.get(name)):
            problems.add(entry.place, f"{name} has no place beside an address {SERVICE_PREFIX}…: {why}")


def _require_one_identity(host: Host, mapping: Mapping, problems: Problems) -> None:
    require_whole_credentials(mapping, problems, what=f"host {quoted(host.name)}")
    if (entry := mapping.get("fingerprint")) and mapping.get("ca"):
        message = "both fingerprint and ca: one certificate is pinned, or whatever the CA signed is taken"
        problems.add(entry.place, f"host {quoted(host.name)} has {message}")
    if host.transport is Transport.PLAIN:
        for name in ("fingerprint", "proxy", *CREDENTIALS):
            if entry := mapping.get(name):
                problems.add(entry.place, f"{name} has no place beside transport plain, which knows no TLS")


def unique_hosts(declared: Sequence[DeclaredHost], problems: Problems) -> dict[str, Host]:
    """The hosts by name; a name that stands in two files is a problem."""
    first: dict[str, DeclaredHost] = {}
    for each in declared:
        known = first.setdefault(each.host.name, each)
        if known is not each:
            problems.add(each.place, f"host {quoted(each.host.name)} stands in {known.place} already")
    return {name: each.host for name, each in first.items()}


def read_host_name(entry: Entry, problems: Problems) -> HostName | None:
    """The name of a host, declared in whichever file."""
    name = text_of(entry, problems)
    return None if name is None else HostName(name, entry.place)
