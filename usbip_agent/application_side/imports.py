"""Which port carries whose device. Pure: what the kernel says comes in as rows, what is to be done goes out.

A port belongs to an import from its reservation, before the peer gets its reply, until it was seen free
again. So two negotiations never race for one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from usbip_agent.device import Device
from usbip_agent.errors import NoFreePortFault, RefusedFault, UnknownDeviceFault
from usbip_agent.kernel.vhci import Hub, PortRow
from usbip_agent.report import ImportReport, ImportState


@dataclass(frozen=True, slots=True)
class Offer:
    """A device that somebody exports, or un-exports."""

    device: Device
    """What the request says of it: descriptors, but no strings."""
    address: str
    """The peer's IP address, without its port, which is another one for each connection."""
    peer: str
    """Address and port, to be shown."""
    transport: str
    node: str | None = None
    """The authenticated node; None on a plain connection."""
    certificate: str = ""
    """Fingerprint of the certificate that *node* has enrolled with; empty where a CA, or nobody, vouches."""

    @property
    def devid(self) -> int:
        """What the kernel tells the device by on its link: busnum << 16 | devnum."""
        return self.device.bus_number << 16 | self.device.device_number

    def is_same_as(self, other: Offer) -> bool:
        """Whether both are one device of one node.

        An authenticated node has each of its busids once, wherever it calls from. Plain peers are told apart
        by no more than their address, and several may share one behind a NAT: for them the enumeration (bus
        and device number) and the ids must be equal too.
        """
        if self.node != other.node or self.device.bus_id != other.device.bus_id:
            return False
        return self.node is not None or (self.address == other.address and self._plain_identity
                                         == other._plain_identity)

    @property
    def _plain_identity(self) -> tuple[int, str, str]:
        return self.devid, self.device.vendor, self.device.product

    @property
    def description(self) -> str:
        """``1-1.4 (10c4:ea60) of pi-kitchen at 10.9.0.7:40312``."""
        who = f"{self.node} at {self.peer}" if self.node else self.peer
        return f"{self.device.bus_id} ({self.device.vendor}:{self.device.product}) of {who}"


@dataclass(frozen=True, slots=True)
class Import:
    """One import at one moment."""

    port: int
    hub: Hub
    offer: Offer
    rule: str
    state: ImportState
    since: int
    """Microseconds since the epoch."""
    local_bus_id: str = ""
    model: str = ""
    device_nodes: tuple[str, ...] = ()
    refused_ports: frozenset[int] = field(default=frozenset())
    """Ports that turned out to be taken when this import was to be attached to them."""

    @property
    def report(self) -> ImportReport:
        """What the world is told of it."""
        device = self.offer.device
        return ImportReport(
            port=self.port, hub=self.hub, node=self.offer.node or "", peer=self.offer.peer,
            bus_id=device.bus_id, vendor=device.vendor, product=device.product, model=self.model,
            speed=device.speed, local_bus_id=self.local_bus_id, device_nodes=self.device_nodes,
            rule=self.rule, transport=self.offer.transport, state=self.state, since=self.since)


class Imports:
    """All imports of this daemon, by port."""

    def __init__(self) -> None:
        self._by_port: dict[int, Import] = {}

    def __iter__(self) -> Iterator[Import]:
        return iter(tuple(self._by_port.values()))

    def __len__(self) -> int:
        return len(self._by_port)

    def __contains__(self, port: int) -> bool:
        return port in self._by_port

    def at(self, port: int) -> Import:
        """The import on *port*. UnknownDeviceFault when none of ours is there."""
        if port not in self._by_port:
            raise UnknownDeviceFault(f"port {port} carries no import of usbipa",
                                     hint="usbipa status lists them; usbip detach ends those of usbip attach")
        return self._by_port[port]

    def reserve(self, offer: Offer, rule: str, rows: Iterable[PortRow], now: int) -> Import:
        """Takes the first free port on the hub that the device's speed needs. NoFreePortFault without one."""
        hub = Hub.for_speed(offer.device.speed)
        port = self._free_port(hub, rows, frozenset())
        reserved = Import(port, hub, offer, rule, ImportState.ATTACHING, now)
        self._by_port[reserved.port] = reserved
        return reserved

    def move(self, port: int, rows: Iterable[PortRow]) -> Import:
        """Another port for the import on *port*, which somebody else took. NoFreePortFault without one."""
        old = self.at(port)
        refused = old.refused_ports | {port}
        moved = replace(old, port=self._free_port(old.hub, rows, refused), refused_ports=refused)
        del self._by_port[port]
        self._by_port[moved.port] = moved
        return moved

    def adopt(self, adopted: Import) -> None:
        """Takes over an import that an earlier process made. ValueError when its port is taken."""
        if adopted.port in self._by_port:
            raise ValueError(f"port {adopted.port} is taken")
        self._by_port[adopted.port] = adopted

    def put(self, changed: Import) -> None:
        """Replaces the import on the same port by *changed*."""
        self.at(changed.port)
        self._by_port[changed.port] = changed

    def release(self, port: int) -> None:
        """Forgets the import on *port*, which from now on may be reserved again."""
        self._by_port.pop(port, None)

    def replaced_by(self, offer: Offer) -> tuple[Import, ...]:
        """The imports that *offer* takes the place of: their links are dead or dying.

        A device can be exported once; who exports it again has lost the first link, known to us or not.
        """
        return tuple(each for each in self._by_port.values() if each.offer.is_same_as(offer))

    def to_be_ended_by(self, offer: Offer) -> Import:
        """The import that an UNEXPORT of *offer* means. RefusedFault when there is none, or more than one."""
        found = self.replaced_by(offer)
        found = tuple(each for each in found if each.state is not ImportState.DETACHING) or found
        if not found:
            raise RefusedFault(f"{offer.description} is not imported from there")
        if len(found) > 1:
            ports = ", ".join(str(each.port) for each in found)
            raise RefusedFault(f"{offer.description} is imported more than once (ports {ports})")
        return found[0]

    def _free_port(self, hub: Hub, rows: Iterable[PortRow], refused: frozenset[int]) -> int:
        for row in rows:
            if row.hub is hub and row.is_free and row.port not in self._by_port and row.port not in refused:
                return row.port
        speed = "SuperSpeed" if hub is Hub.SUPER else "high-speed"
        raise NoFreePortFault(f"all {speed} ports of vhci-hcd are taken", hint="usbipa status, usbip port")
