"""The nodes that this host has enrolled: one file each, with name and certificate, in the state directory."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from usbip_agent.errors import Fault, RefusedFault
from usbip_agent.identity.files import DIRECTORY_MODE, read_file, remove_file, write_file
from usbip_agent.transport.fingerprint import certificate_der, certificate_pem, fingerprint_of
from usbip_agent.policy.values import system_name

log = logging.getLogger(__name__)

VERSION: Final = 1

SEEN_INTERVAL: Final = 60_000_000
"""µs between two writings of who was seen when: it is for people, and flash wears out."""

_SEEN_FILE: Final = "last-seen.json"
_LARGEST_NODE, _LARGEST_SEEN = 32 * 1024, 4 * 1024 * 1024
_LONGEST_PEER = 64


@dataclass(frozen=True, slots=True)
class KnownNode:
    """An enrolled node. Times in µs since the epoch, 0 = never."""

    name: str
    fingerprint: str
    enrolled: int
    last_seen: int = 0
    last_peer: str = ""


class KnownNodes:
    """The enrolled nodes below *state*, read once: while the daemon runs, the files are its own.

    A file that is damaged is reported, left where it is, and its node is not known.
    """

    def __init__(self, state: Path) -> None:
        self._directory = state / "nodes"
        self._seen_file = state / _SEEN_FILE
        self._nodes: dict[str, KnownNode] = {}
        self._pems: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._seen_written = 0
        self._seen_is_new = False
        self.generation = 0
        """Another number whenever ``certificates`` has become another."""
        self._load()

    def __contains__(self, name: str) -> bool:
        return name in self._nodes

    def all(self) -> tuple[KnownNode, ...]:
        """Every node, by name."""
        return tuple(self._nodes[name] for name in sorted(self._nodes))

    def name_of(self, fingerprint: str) -> str | None:
        """The node with that certificate."""
        return self._names.get(fingerprint)

    def certificates(self) -> str:
        """All certificates in PEM; nothing else is to be trusted."""
        return "".join(self._pems[name] for name in sorted(self._pems))

    def check_is_free(self, name: str, fingerprint: str) -> None:
        """RefusedFault when another node than *name* has that certificate: one key, one name."""
        holder = self._names.get(fingerprint, name)
        if holder != name:
            raise RefusedFault(f"this certificate is enrolled already, as {holder}",
                               hint=f"usbipa revoke {holder} on the host sets it free")

    def add(self, name: str, pem: str, enrolled_at: int) -> KnownNode:
        """Makes the node known by the certificate, from now on and for good; an earlier one is forgotten.

        *enrolled_at* in µs since the epoch. ValueError for a bad name or certificate, RefusedFault as
        ``check_is_free``, Fault when it cannot be written; then nothing has changed.
        """
        der = certificate_der(pem)
        node = KnownNode(system_name(name), fingerprint_of(der), enrolled_at)
        self.check_is_free(name, node.fingerprint)
        content = json.dumps({"version": VERSION, "name": name, "enrolled": enrolled_at,
                              "certificate": certificate_pem(der)})
        try:
            self._directory.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
            write_file(self._file(name), content)
        except OSError as error:
            raise Fault(f"node {name} cannot be written to {self._directory}: {error.strerror}") from None
        self._forget(name)
        self._remember(node, certificate_pem(der))
        return node

    def revoke(self, name: str) -> bool:
        """Knows the node no more; False when it was not known. Fault when its file cannot be removed."""
        try:
            removed = name in self._nodes and remove_file(self._file(name))
        except OSError as error:
            raise Fault(f"node {name} cannot be removed from {self._directory}: {error.strerror}") from None
        return self._forget(name) or removed

    def seen(self, name: str, peer: str, now: int) -> None:
        """Notes that the node came from *peer* (address and port), *now* in µs since the epoch."""
        if name not in self._nodes:
            return
        self._nodes[name] = replace(self._nodes[name], last_seen=now, last_peer=peer[:_LONGEST_PEER])
        self._seen_is_new = True
        if abs(now - self._seen_written) >= SEEN_INTERVAL:
            self._seen_written = now
            self.flush()

    def flush(self) -> None:
        """Writes who was seen when; to be called at the end. That it fails is a warning."""
        if not self._seen_is_new:
            return
        seen = {node.name: [node.last_seen, node.last_peer] for node in self.all() if node.last_seen}
        try:
            write_file(self._seen_file, json.dumps({"version": VERSION, "seen": seen}), lasting=False)
            self._seen_is_new = False
        except OSError as error:
            log.warning("%s cannot be written: %s", self._seen_file, error.strerror)

    def _file(self, name: str) -> Path:
        return self._directory / f"{name}.json"

    def _remember(self, node: KnownNode, pem: str) -> None:
        self._nodes[node.name] = node
        self._pems[node.name] = pem
        self._names[node.fingerprint] = node.name
        self.generation += 1

    def _forget(self, name: str) -> bool:
        node = self._nodes.pop(name, None)
        if node is None:
            return False
        del self._pems[name], self._names[node.fingerprint]
        self.generation += 1
        return True

    def _load(self) -> None:
        for path in self._paths():
            try:
                node, pem = _read_node(path)
                self.check_is_free(node.name, node.fingerprint)
            except (OSError, ValueError, RecursionError, RefusedFault) as error:
                why = error.strerror if isinstance(error, OSError) else error
                log.error("%s is left aside, node %s is not known: %s", path, path.stem, why)
            else:
                self._remember(node, pem)
        for name, (when, peer) in self._read_seen():
            if name in self._nodes:
                self._nodes[name] = replace(self._nodes[name], last_seen=when, last_peer=peer)

    def _paths(self) -> list[Path]:
        try:
            return sorted(path for path in self._directory.iterdir()
                          if path.suffix == ".json" and not path.name.startswith("."))
        except FileNotFoundError:
            return []
        except OSError as error:
            log.error("%s cannot be read, no node is known: %s", self._directory, error.strerror)
            return []

    def _read_seen(self) -> Iterator[tuple[str, tuple[int, str]]]:
        try:
            content = _mapping(read_file(self._seen_file, _LARGEST_SEEN) or "{}")
            for name, entry in _mapping(content.get("seen", {})).items():
                when, peer = entry
                if type(when) is int and isinstance(peer, str):
                    yield name, (when, peer)
        except (OSError, ValueError, TypeError, RecursionError) as error:
            log.warning("%s is damaged, who was seen when is forgotten: %s", self._seen_file, error)


def _read_node(path: Path) -> tuple[KnownNode, str]:
    content = _mapping(read_file(path, _LARGEST_NODE) or "")
    name, pem, enrolled = (content.get(key) for key in ("name", "certificate", "enrolled"))
    if content.get("version") != VERSION:
        raise ValueError("it is of another version")
    if not isinstance(name, str) or not isinstance(pem, str) or type(enrolled) is not int:
        raise ValueError("a name, certificate or time is missing")
    if system_name(name) != path.stem:
        raise ValueError("it is that of another node")
    der = certificate_der(pem)
    return KnownNode(name, fingerprint_of(der), enrolled), certificate_pem(der)


def _mapping(content: Any) -> dict[str, Any]:
    found = json.loads(content) if isinstance(content, str) else content
    if not isinstance(found, dict):
        raise ValueError("it is damaged")
    return found
