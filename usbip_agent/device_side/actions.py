"""What the state machine of a device wants done. Each piece of work reports its outcome as an event."""

from __future__ import annotations

from dataclasses import dataclass

from usbip_agent.device import Device
from usbip_agent.policy.hosts import Host


@dataclass(frozen=True, slots=True)
class Connection:
    """Where a connected device is connected to."""

    host: Host
    transport: str
    peer: str


@dataclass(frozen=True, slots=True)
class StartAttempt:
    """Connect the device to the first of *hosts* that takes it; report the outcome."""

    device: Device
    hosts: tuple[Host, ...]


@dataclass(frozen=True, slots=True)
class StopAttempt:
    """Cancel the attempt; it still reports its outcome."""


@dataclass(frozen=True, slots=True)
class StartRelease:
    """Un-export the device if it is connected, and give it back to its local driver; report the outcome."""

    device: Device
    connection: Connection | None


@dataclass(frozen=True, slots=True)
class AwaitUnlink:
    """Wait until the kernel is done with the link that ended; report the outcome."""

    device: Device


@dataclass(frozen=True, slots=True)
class StartCleanup:
    """The device is gone: close the link, clear what the driver still says of it; report when done."""

    device: Device


@dataclass(frozen=True, slots=True)
class StartTimer:
    """Call ``timer_due`` in *delay* seconds, in place of any other timer."""

    delay: float


@dataclass(frozen=True, slots=True)
class StopTimer:
    """Call ``timer_due`` no more."""


@dataclass(frozen=True, slots=True)
class Drop:
    """Nothing is left to do for this device, ever."""


Action = (
    StartAttempt | StopAttempt | StartRelease | AwaitUnlink | StartCleanup | StartTimer | StopTimer | Drop)
Actions = tuple[Action, ...]
