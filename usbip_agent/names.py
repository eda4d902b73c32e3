"""Every string that the outside world relies on, in one place.

What stands here is contract: D-Bus names, unit names, paths, sysfs attributes, journal fields. A change is a
change of the product.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final


@dataclass(frozen=True, slots=True)
class Service:
    """The names one daemon has in the world."""

    command: str
    unit: str
    bus_name: str
    manager_path: str
    manager_interface: str
    child_interface: str
    child_path: str
    configuration: Path
    drop_ins: Path
    runtime_directory: Path
    state_directory: Path
    module: str
    """The kernel module without which the daemon can do nothing."""


AGENT: Final = Service(
    command="usbip-agent",
    unit="usbip-agent.service",
    bus_name="org.usbip.Agent1",
    manager_path="/org/usbip/Agent1",
    manager_interface="org.usbip.Agent1.Manager",
    child_interface="org.usbip.Agent1.Device",
    child_path="/org/usbip/Agent1/device",
    configuration=Path("/etc/usbip-agent/agent.yaml"),
    drop_ins=Path("/etc/usbip-agent/agent.d"),
    runtime_directory=Path("/run/usbip-agent"),
    state_directory=Path("/var/lib/usbip-agent"),
    module="usbip-host",
)

USBIPA: Final = Service(
    command="usbipa",
    unit="usbipa.service",
    bus_name="org.usbip.Usbipa1",
    manager_path="/org/usbip/Usbipa1",
    manager_interface="org.usbip.Usbipa1.Manager",
    child_interface="org.usbip.Usbipa1.Import",
    child_path="/org/usbip/Usbipa1/import",
    configuration=Path("/etc/usbipa/usbipa.yaml"),
    drop_ins=Path("/etc/usbipa/usbipa.d"),
    runtime_directory=Path("/run/usbipa"),
    state_directory=Path("/var/lib/usbipa"),
    module="vhci-hcd",
)

DBUS_ERROR_PREFIX: Final = "org.usbip.Error"

DEFAULT_PORT: Final = 3240
"""TCP port of USB/IP, registered with IANA as ``usbip``."""

UDEV_TAG_USBIPA: Final = "usbipa"
"""udev tag that the shipped rule puts on everything below vhci-hcd, so that usbipa hears of nothing else."""


class Journal:
    """Journal fields of a transition; each becomes ``USBIP_…=`` in ``journalctl -o verbose``."""

    BUS_ID: Final = "USBIP_BUSID"
    HOST: Final = "USBIP_HOST"
    STATE: Final = "USBIP_STATE"
    REASON: Final = "USBIP_REASON"
    NODE: Final = "USBIP_NODE"
    PORT: Final = "USBIP_PORT"
    PEER: Final = "USBIP_PEER"
    RULE: Final = "USBIP_RULE"
    CODE: Final = "USBIP_CODE"
