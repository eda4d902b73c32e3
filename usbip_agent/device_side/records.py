"""What the agent leaves in its runtime directory: a restart finds its links there, and its promises."""

from __future__ import annotations

from dataclasses import dataclass, replace

from usbip_agent.device import Device, Enumeration
from usbip_agent.policy.hosts import Host


@dataclass(frozen=True, slots=True)
class ExportRecord:
    """A device that the agent took, connected or holds. Times in microseconds since the epoch."""

    bus_id: str
    bus_number: int
    device_number: int
    vendor: str = ""
    product: str = ""
    held: bool = False
    """Disconnected by hand."""
    by_hand: bool = False
    """Connected by hand, to *address* and *port*, or to the configured *host*."""
    host: str = ""
    address: str = ""
    port: int = 0
    transport: str = ""
    """The configured word; *shown_transport* is what ``status`` says."""
    shown_transport: str = ""
    peer: str = ""
    since: int = 0

    def is_of(self, device: Device) -> bool:
        """Whether it was written for this very enumeration; of a vUDC, which has no numbers, the ids tell."""
        written_for = Enumeration(self.bus_id, self.bus_number, self.device_number)
        return written_for == device.enumeration and (
            (self.vendor, self.product) in (("", ""), (device.vendor, device.product)))

    @classmethod
    def of(cls, device: Device, host: Host | None = None, *, held: bool = False,
           by_hand: bool = False) -> ExportRecord:
        """What is to be known of *device*: the *host* that it is on, or that somebody wants it on."""
        what = cls(device.bus_id, device.bus_number, device.device_number, device.vendor, device.product,
                   held, by_hand)
        return what if host is None else replace(
            what, host=host.name, address=host.address, port=host.port, transport=host.transport)
