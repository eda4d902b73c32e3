"""A stick behind a hub, as the stub sees it: sysfs and usbfs in a directory, and systemd's store."""

from __future__ import annotations

import os
from pathlib import Path

from usbip_agent.device import Device, Kind, Speed

STICK = Device(Kind.USB, "1-1.2", 1, 7, Speed.HIGH, "10c4", "ea60")


class Store:
    """Stands for systemd: what is stored, by name."""

    def __init__(self) -> None:
        self.kept: dict[str, int] = {}

    def store(self, name: str, descriptor: int, *, until_it_ends: bool = True) -> None:
        assert not until_it_ends  # else systemd would drop it when the device goes: just when it is needed
        self.kept[name] = os.dup(descriptor)

    def handed_out(self) -> dict[str, int]:
        """What the next run gets."""
        return {name: os.dup(descriptor) for name, descriptor in self.kept.items()}

    def forget(self, name: str) -> None:
        os.close(self.kept.pop(name))


class Sysfs:
    """A hub with a stick, and the stub's files: what is written to them stays there to be read."""

    def __init__(self, root: Path) -> None:
        self.root, self.bus, self.driver = root, root / "bus/usb", root / "bus/usb/drivers/usbip-host"
        self.driver.mkdir(parents=True)
        for name in ("match_busid", "rebind"):
            (self.driver / name).touch()
        (root / "hub").mkdir()
        (root / "hub/busnum").write_text("1\n")
        (root / "hub/devnum").write_text("2\n")
        for number in (2, 7, 8):
            node = root / f"nodes/001/{number:03}"
            node.parent.mkdir(parents=True, exist_ok=True)
            node.touch()

    def plug(self, number: int) -> None:
        place = self.root / "hub/1-1.2"
        place.mkdir(exist_ok=True)
        (place / "busnum").write_text("1\n")
        (place / "devnum").write_text(f"{number}\n")
        (self.bus / "devices").mkdir(exist_ok=True)
        if not (self.bus / "devices/1-1.2").is_symlink():
            (self.bus / "devices/1-1.2").symlink_to(place)

    def unplug(self) -> None:
        (self.bus / "devices/1-1.2").unlink()

    @property
    def rebound(self) -> str:
        return (self.driver / "rebind").read_text()
