"""What the agent leaves in its runtime directory: a restart finds its links there, and its promises."""

from __future__ import annotations

from dataclasses import dataclass

from usbip_agent.device import Device, Enumeration


@dataclass(frozen=True, slots=True)
class ExportRecord:
    """A device that the agent took, connected or holds. Times in microseconds since the epoch."""

    bus_id: str
    bus_number: int
    device_number: int
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
        """Whether it was written for this very enumeration."""
        return Enumeration(self.bus_id, self.bus_number, self.device_number) == device.enumeration
