"""What an earlier run of the agent left behind: links that live on, promises to keep, halves to finish.

The kernel's state is the truth; the records and the descriptors that systemd kept only say what it means.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterable, Set
from dataclasses import dataclass, replace

from usbip_agent.device import Device
from usbip_agent.device_side.actions import Connection
from usbip_agent.device_side.keeper import descriptor_name
from usbip_agent.device_side.records import ExportRecord
from usbip_agent.kernel.exporter import Exporter, LinkStatus
from usbip_agent.policy.agent import AgentPolicy
from usbip_agent.policy.hosts import Host
from usbip_agent.policy.transports import Transport
from usbip_agent.service.notify import Notifier, StoredDescriptor
from usbip_agent.service.records import RecordStore
from usbip_agent.transport.stream import shut_down

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Adopted:
    """How far an earlier run had come with one device."""

    held: bool = False
    by_hand: Host | None = None
    claimed: bool = False
    connection: Connection | None = None
    link: socket.socket | None = None
    since: int = 0


class Leftovers:
    """The records and descriptors of the earlier run, each taken once."""

    def __init__(self, records: RecordStore[ExportRecord], stored: Iterable[StoredDescriptor],
                 notifier: Notifier) -> None:
        self._records = dict(records.all())
        self._store = records
        self._stored = {each.name: each.descriptor for each in stored}
        self._notifier = notifier

    def adopt(self, device: Device, policy: AgentPolicy, exporter: Exporter) -> Adopted:
        """What is to be continued with *device*."""
        record = self._records.pop(device.bus_id, None)
        link = self._take_link(device.bus_id)
        if record is None or not record.is_of(device):
            self._discard(device.bus_id, link)
            return Adopted()
        if record.held:
            self._discard(device.bus_id, link)
            return Adopted(held=True, claimed=exporter.holds(device))
        host = _host_of(record, policy)
        by_hand = host if record.by_hand else None
        if exporter.link_status(device) is not LinkStatus.USED:
            # It died before the hand-over, or the link ended while nobody looked.
            if link is not None or not exporter.holds(device):
                self._discard(device.bus_id, link)
            return Adopted(by_hand=by_hand, claimed=exporter.holds(device))
        # Without a link (systemd drops its store when a daemon stays down) the connection cannot be watched:
        # the keeper ends it by way of the host, and makes another.
        log.info("%s is still connected to %s", device.bus_id, record.host)
        connection = Connection(host, record.shown_transport, record.peer)
        return Adopted(by_hand=by_hand, claimed=True, connection=connection, link=link, since=record.since)

    def forget_the_rest(self, unsure: Set[str] = frozenset()) -> None:
        """Everything that belongs to devices which are no more: all but those that are not known yet."""
        for bus_id in self._records.keys() - unsure:
            del self._records[bus_id]
            self._discard(bus_id, self._take_link(bus_id))
        for name in self._stored.keys() - {descriptor_name(bus_id) for bus_id in unsure}:
            self._notifier.forget(name)
            socket.close(self._stored.pop(name))

    def _take_link(self, bus_id: str) -> socket.socket | None:
        descriptor = self._stored.pop(descriptor_name(bus_id), None)
        if descriptor is None:
            return None
        try:
            return socket.socket(fileno=descriptor)
        except OSError:
            return None

    def _discard(self, bus_id: str, link: socket.socket | None) -> None:
        self._store.remove(bus_id)
        if link is not None:
            shut_down(link)  # nobody knows what it leads to; what the kernel still has of it ends
            link.close()
            self._notifier.forget(descriptor_name(bus_id))


def _host_of(record: ExportRecord, policy: AgentPolicy) -> Host:
    """The host of a link as it was when it was made.

    The configured entry where it still says the same, so that a link to a host that was moved in the
    configuration meanwhile is seen to lead elsewhere.
    """
    known = policy.host(record.host)
    if known is not None and (known.address, known.port, known.transport) == (
            record.address, record.port, record.transport):
        return known
    made = Host(record.host, record.address, record.port, Transport(record.transport))
    return replace(known, port=record.port) if known is not None and known.address == record.address else made
