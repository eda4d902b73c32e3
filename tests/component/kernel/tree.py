"""A machine's file systems in a directory, as far as the usage of USB devices goes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from usbip_agent.kernel.block_devices import Places

KEYBOARD = "10000 7 ff9f207ac14057ff febeffdfffefffff fffffffffffffffe"
"""capabilities/key of a USB keyboard, as a 64-bit kernel prints it."""
POWER_BUTTON = "10000000000000 0"
MOUNTS = """\
22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
25 22 0:24 / /proc rw,nosuid - proc proc rw
"""


@dataclass(frozen=True, slots=True)
class Machine:
    """Writes what the kernel and logind would show below *root*."""

    root: Path

    @property
    def places(self) -> Places:
        return Places(self.root / "sys", self.root / "proc", self.root / "dev", self.root / "run")

    def prepare(self) -> None:
        for directory in ("dev", "run/systemd/sessions", "run/udev/data", "sys/class/block"):
            (self.root / directory).mkdir(parents=True)
        self.write("proc/1/mountinfo", MOUNTS)

    def write(self, name: str, text: str) -> Path:
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return file

    def device(self, bus_id: str) -> Path:
        """The directory of a USB device, as the bus links to it."""
        real = self.root / f"sys/devices/pci0000:00/usb1/{bus_id}"
        link = self.root / f"sys/bus/usb/devices/{bus_id}"
        for directory in (real, link.parent):
            directory.mkdir(parents=True, exist_ok=True)
        link.symlink_to(real)
        return link

    def member(self, of: Path, subsystem: str, name: str, **attributes: str) -> Path:
        """A device of *subsystem* below the directory *of*, linked from its class."""
        real = of.resolve() / subsystem / name
        real.mkdir(parents=True)
        for attribute, text in attributes.items():
            file = real / attribute.replace("__", "/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text + "\n", encoding="utf-8")
        link = self.root / "sys/class" / subsystem / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(real)
        return real

    def disk(self, of: Path, name: str, number: str, *partitions: tuple[str, str]) -> Path:
        """A disk with its partitions and their nodes."""
        disk = self.member(of, "block", name, dev=number)
        (self.root / "dev" / name).touch()
        for partition, its_number in partitions:
            real = disk / partition
            real.mkdir()
            (real / "dev").write_text(its_number + "\n", encoding="ascii")
            (real / "partition").write_text("1\n", encoding="ascii")
            (self.root / "sys/class/block" / partition).symlink_to(real)
            (self.root / "dev" / partition).touch()
        return disk

    def virtual_block(self, name: str, number: str, upon: Path, mapped: str = "") -> Path:
        """What device mapper or md makes of *upon*."""
        above = self.member(self.root / "sys/devices/virtual", "block", name, dev=number)
        if mapped:
            (above / "dm").mkdir()
            (above / "dm/name").write_text(mapped + "\n", encoding="utf-8")
        (upon / "holders").mkdir(exist_ok=True)
        (upon / "holders" / name).symlink_to(above)
        return above

    def mount(self, line: str) -> None:
        with (self.root / "proc/1/mountinfo").open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def session(self, name: str, **facts: str) -> None:
        lines = "".join(f"{key}={value}\n" for key, value in facts.items())
        self.write(f"run/systemd/sessions/{name}", "# This is private data. Do not parse.\n" + lines)


class FakeRoutes:
    """Routing tables as a test wants them."""

    def __init__(self, *uplinks: str, **ways: str) -> None:
        self._uplinks = frozenset(uplinks)
        self.to = ways

    def interface_to(self, address: str) -> str:
        return self.to.get(address, "")

    def uplinks(self) -> frozenset[str]:
        return self._uplinks
