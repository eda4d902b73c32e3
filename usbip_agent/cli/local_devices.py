"""The USB devices and vUDC gadgets of this machine, as ``list`` and ``explain`` look at them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from usbip_agent.cli.output import natural_order
from usbip_agent.device import Device, Kind
from usbip_agent.kernel import sysfs
from usbip_agent.kernel.stub import DRIVER
from usbip_agent.kernel.uevents import UeventMonitor, device_of_event
from usbip_agent.kernel.vudc import Vudc


@dataclass(frozen=True, slots=True)
class LocalDevice:
    """A device and the drivers that have it: the stub, or those of its interfaces."""

    device: Device
    drivers: tuple[str, ...]


def all_local_devices() -> list[LocalDevice]:
    """All of them, hubs and imported devices too, in the order of their busids."""
    found = {device.bus_id: device for device in _enumerate()}
    return [LocalDevice(found[name], _drivers_of(found[name])) for name in sorted(found, key=natural_order)]


def exportable_devices() -> list[LocalDevice]:
    """Those that could be exported: as ``usbip list -l``, no hubs, and nothing that is itself imported."""
    return [each for each in all_local_devices() if not (each.device.is_hub or each.device.is_imported)]


def local_device(bus_id: str) -> Device | None:
    """The device with that busid."""
    return next((device for device in _enumerate() if device.bus_id == bus_id), None)


def _enumerate() -> Iterator[Device]:
    # The monitor never starts: it is only asked what there is.
    for event in UeventMonitor(lambda event: None, lambda: None).enumerate_usb_devices():
        device = Vudc().read(event.name) if event.subsystem == "udc" else device_of_event(event)
        if device is not None:
            yield device


def _drivers_of(device: Device) -> tuple[str, ...]:
    if device.kind is Kind.VUDC:
        return ()
    directory = Path(device.sys_path)
    if sysfs.driver_of(directory) == DRIVER:
        return (DRIVER,)
    drivers = (sysfs.driver_of(interface) for interface in sorted(directory.glob(f"{device.bus_id}:*")))
    return tuple(dict.fromkeys(driver for driver in drivers if driver))
