"""Devices that say the same of themselves: rules cannot tell them apart, their ports can. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from usbip_agent.device import Device


@dataclass(slots=True)
class Twins:
    """Who is plugged in, by what it says it is: vendor, product and serial."""

    _by_identity: dict[tuple[str, str, str], dict[str, None]] = field(default_factory=dict)
    _identities: dict[str, tuple[str, str, str]] = field(default_factory=dict)

    def plugged(self, device: Device) -> str:
        """Notes *device*, and says with whom it could be mistaken; empty = with nobody."""
        self.unplugged(device.bus_id)
        if not device.serial:
            return ""
        identity = (device.vendor, device.product, device.serial)
        others = self._by_identity.setdefault(identity, {})
        before = list(others)
        others[device.bus_id] = None
        self._identities[device.bus_id] = identity
        if not before:
            return ""
        more = f" and {len(before) - 1} more" if len(before) > 1 else ""
        return (f"{device.bus_id} says that it is the same device as {before[0]}{more} "
                f"({device.description}, serial {device.serial}); "
                "a rule tells them apart by path: or busid: only")

    def unplugged(self, bus_id: str) -> None:
        """Forgets the device, if it was noted."""
        identity = self._identities.pop(bus_id, None)
        if identity is not None:
            others = self._by_identity[identity]
            del others[bus_id]
            if not others:
                del self._by_identity[identity]
