"""What a daemon does when it is called over the bus, and the words in which it is asked and answers.

Foreseeable failures are raised as ``errors.Fault``: the caller gets their D-Bus name and one line. Anything
else reaches the journal, and the caller hears "internal error". Every ``async`` operation runs in a task of
its own, several at the same time, and is cancelled when the daemon leaves the bus.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class ConnectOptions:
    """Options of ``Connect``: a port instead of the host's configured one; a vUDC, not a USB device."""

    port: int | None = None
    vudc: bool = False


@dataclass(frozen=True, slots=True)
class DisconnectOptions:
    """Options of ``Disconnect``."""

    vudc: bool = False


@dataclass(frozen=True, slots=True)
class ExplanationStep:
    """One rule that was tried: where it is written (``file:line``), whether it matched, and why (not)."""

    rule: str
    location: str
    matched: bool
    why: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """Which rule decides about a device, what it says, and rule by rule how it came to that."""

    rule: str
    verdict: str
    hosts: tuple[str, ...]
    steps: tuple[ExplanationStep, ...]


class EnrolledNode(Protocol):
    """A node that may connect. Times in µs since the epoch, 0 = never."""

    @property
    def name(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def enrolled(self) -> int: ...
    @property
    def last_seen(self) -> int: ...
    @property
    def last_peer(self) -> str: ...


class AgentOperations(Protocol):
    """The device side, as ``org.usbip.Agent1.Manager`` calls it."""

    async def connect(self, bus_id: str, host: str, options: ConnectOptions) -> str:
        """Export a device; the busid of what was exported."""

    async def disconnect(self, bus_id: str, options: DisconnectOptions) -> None:
        """Un-export a device and hold it."""

    async def reload(self) -> None:
        """Read the configuration again; a bad one changes nothing and is raised as ConfigurationFault."""

    def explain(self, bus_id: str) -> Explanation:
        """What the policy says of a device. Every local user may ask: it must be quick and change nothing."""


class UsbipaOperations(Protocol):
    """The application side, as ``org.usbip.Usbipa1.Manager`` calls it."""

    async def detach(self, port: int) -> None:
        """End the import on a vhci-hcd port."""

    async def reload(self) -> None:
        """Read the configuration again; a bad one changes nothing and is raised as ConfigurationFault."""


@runtime_checkable
class EnrolmentOperations(Protocol):
    """What ``org.usbip.Usbipa1.Manager`` calls as well, of a daemon that enrols nodes."""

    async def enroll(self, node: str, host: str | None, port: int | None) -> str:
        """A join code for *node*. None: the name and the port that this host is usually reached by."""

    def nodes(self) -> Sequence[EnrolledNode]:
        """Who may connect."""

    async def revoke(self, node: str) -> None:
        """Refuse *node* from now on, and end its imports; UnknownNodeFault when it is not enrolled."""
