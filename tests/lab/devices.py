"""USB devices that QEMU makes, to plug into and pull out of a guest.

Where a device appears in the guest follows from its port: see ``busid``. A stick on ports 1 to 8 is
SuperSpeed, on 9 to 15 it is high speed, behind a hub it is full speed like everything else.
"""
from __future__ import annotations

import hashlib
import itertools
import os
import socket
import tempfile
import weakref
from pathlib import Path
from typing import Any, Callable

from .machine import USB3_PORTS
from .qmp import Qmp
from .report import LabError

_numbers = itertools.count(1)


class Device:
    """One USB device; may be plugged, pulled and plugged again, in one guest at a time."""

    driver = "usb-mouse"
    super_speed = False

    def __init__(self, **properties: Any) -> None:
        self.id = f"{self.driver.removeprefix('usb-')}{next(_numbers)}"
        self.properties = {key.replace("_", "-"): value for key, value in properties.items()}
        self.port = ""

    def plug(self, qmp: Qmp, port: int | str) -> None:
        """Puts it on a port of the guest's xHCI controller (``"3.1"`` is port 1 of a hub on 3)."""
        self.port = str(port)
        if self.driver not in {item["name"] for item in
                               qmp.command("qom-list-types", implements="usb-device")}:
            raise LabError(f"this QEMU has no {self.driver}")
        self.connect(qmp)
        qmp.command("device_add", driver=self.driver, id=self.id, bus="xhci.0", port=self.port,
                    **self.properties)

    def unplug(self, qmp: Qmp) -> None:
        """Pulls it out and waits until QEMU has let go of it."""
        qmp.command("device_del", id=self.id)
        qmp.wait_event("DEVICE_DELETED", accept=lambda data: data.get("device") == self.id)
        self.disconnect(qmp)
        self.port = ""

    @property
    def busid(self) -> str:
        """Its bus id in the guest: bus 1 is USB 2, bus 2 is SuperSpeed."""
        fast = self.super_speed and self.port.isdigit() and int(self.port) <= USB3_PORTS
        return f"{2 if fast else 1}-{self.port}"

    def connect(self, qmp: Qmp) -> None:
        """Makes what the device needs inside QEMU."""

    def disconnect(self, qmp: Qmp) -> None:
        """Removes it again."""

    def close(self) -> None:
        """Removes what it left on this machine."""


class Mouse(Device):
    """0627:0001, boot-protocol mouse."""


class Keyboard(Device):
    """0627:0001, boot-protocol keyboard."""

    driver = "usb-kbd"

    @staticmethod
    def press(qmp: Qmp, *keys: str) -> None:
        """Presses and releases keys together, by QEMU's names (``a``, ``shift``, ``ret``)."""
        qmp.command("send-key", keys=[{"type": "qcode", "data": key} for key in keys])


class Tablet(Device):
    """0627:0001, absolute pointer."""

    driver = "usb-tablet"


class Hub(Device):
    """0409:55aa, eight ports, full speed. Plug into it with ``port="3.1"``."""

    driver = "usb-hub"


class Audio(Device):
    """46f4:0002, isochronous playback into silence."""

    driver = "usb-audio"

    def connect(self, qmp: Qmp) -> None:
        self.properties["audiodev"] = "silence"


class Stick(Device):
    """46f4:0001, mass storage with random content.

    ``sha256`` is that of the whole of it, ``disk`` the name udev gives it wherever it is attached.
    """

    driver = "usb-storage"
    super_speed = True

    def __init__(self, size: int = 16 << 20, serial: str = "LAB0001", **properties: Any) -> None:
        super().__init__(serial=serial, **properties)
        # Memory without a name: nothing to remove, even if this process is killed.
        self._content = os.memfd_create(self.id)
        self.path = Path(f"/proc/{os.getpid()}/fd/{self._content}")
        total = hashlib.sha256()
        for _ in range(size >> 20):
            piece = os.urandom(1 << 20)
            total.update(piece)
            os.write(self._content, piece)
        weakref.finalize(self, os.close, self._content)
        self.disk = f"/dev/disk/by-id/usb-QEMU_QEMU_HARDDISK_{serial}-0:0"
        self.sha256 = total.hexdigest()

    def connect(self, qmp: Qmp) -> None:
        qmp.command("blockdev-add", driver="raw", node_name=f"{self.id}-disk",
                    file={"driver": "file", "filename": str(self.path)})
        self.properties["drive"] = f"{self.id}-disk"

    def disconnect(self, qmp: Qmp) -> None:
        qmp.command("blockdev-del", node_name=f"{self.id}-disk")


class Serial(Device):
    """0403:6001, an FTDI adapter (``/dev/ttyUSB0``); ``line`` connects to its far end."""

    driver = "usb-serial"

    def __init__(self, **properties: Any) -> None:
        super().__init__(always_plugged=True, **properties)
        self._directory = tempfile.TemporaryDirectory(prefix="usbip-lab-")
        self._path = str(Path(self._directory.name) / "line")

    def connect(self, qmp: Qmp) -> None:
        address = {"type": "unix", "data": {"path": self._path}}
        qmp.command("chardev-add", id=f"{self.id}-line", backend={
            "type": "socket", "data": {"addr": address, "server": True, "wait": False}})
        self.properties["chardev"] = f"{self.id}-line"

    def disconnect(self, qmp: Qmp) -> None:
        qmp.command("chardev-remove", id=f"{self.id}-line")

    def close(self) -> None:
        self._directory.cleanup()

    def line(self) -> socket.socket:
        """A new connection to what hangs on the adapter; one at a time."""
        end = socket.socket(socket.AF_UNIX)
        end.settimeout(20)
        end.connect(self._path)
        return end


class Network(Device):
    """0525:a4a2, a network card whose cable ends nowhere, but has a carrier."""

    driver = "usb-net"

    def connect(self, qmp: Qmp) -> None:
        qmp.command("netdev_add", type="hubport", id=f"{self.id}-end", hubid=0)
        self.properties["netdev"] = f"{self.id}-end"

    def disconnect(self, qmp: Qmp) -> None:
        qmp.command("netdev_del", id=f"{self.id}-end")


KINDS: dict[str, Callable[[], Device]] = {
    "stick": Stick, "keyboard": Keyboard, "mouse": Mouse, "tablet": Tablet, "serial": Serial,
    "audio": Audio, "hub": Hub, "network": Network,
}
