"""Builds the disk of a guest: a minimal Debian from the machine's own package sources."""
from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from . import cache
from .report import LabError, say, tail

HERE = Path(__file__).parent
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SUITES = ("trixie", "bookworm")
DISK_SIZE = "4G"
PACKAGES = """
    systemd-sysv udev dbus kmod iproute2 procps linux-image-amd64 initramfs-tools zstd
    python3 python3-pyudev python3-sdnotify python3-dbus-next python3-yaml python3-cryptography
    python3-websockets python3-systemd python3-dnspython
    usbip usbutils tcpdump nftables iputils-ping strace
    openssh-client openssh-server stunnel4 tinyproxy nginx-light
""".split()


@dataclass(frozen=True)
class Image:
    """A built disk (raw ext4, no partitions) with the kernel and initrd that boot it."""

    directory: Path
    key: str

    @property
    def disk(self) -> Path:
        """The raw file system; never written after it was built."""
        return self.directory / "disk.raw"

    @property
    def kernel(self) -> Path:
        """The kernel of the suite."""
        return self.directory / "vmlinuz"

    @property
    def initrd(self) -> Path:
        """An initrd made for exactly this virtual machine."""
        return self.directory / "initrd.img"


def build(suite: str) -> Image:
    """The image of a Debian suite, from the cache or newly built (about a minute)."""
    if suite not in SUITES:
        raise LabError(f"no recipe for {suite}: one of {', '.join(SUITES)}")
    files = sorted(path for path in (HERE / "rootfs").iterdir() if path.is_file())
    key = cache.digest(suite, " ".join(PACKAGES), DISK_SIZE, HERE / "guest_agent.py", *files)
    name = f"image-{suite}-{key}"
    return Image(cache.entry(name, lambda path: _make(suite, path)), key)


def mirror() -> str:
    """The Debian archive this machine installs from, as apt knows it."""
    if chosen := os.environ.get("USBIP_LAB_MIRROR"):
        return chosen
    targets = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)",
         "Identifier: Packages"], capture_output=True, text=True, check=True).stdout
    for line in targets.splitlines():
        uri, release, component = line.split()[:3]
        plain = not release.endswith(("-updates", "-security", "-backports"))
        if component == "main" and plain and "debian" in uri:
            return uri
    raise LabError("apt has no source of Debian's main archive: set USBIP_LAB_MIRROR to one")


def _make(suite: str, target: Path) -> None:
    if os.geteuid() != 0:
        raise LabError("building an image needs root (mmdebstrap and mke2fs keep the owners)")
    for tool in ("mmdebstrap", "mke2fs"):
        if not shutil.which(tool, path="/usr/sbin:/usr/bin:/sbin:/bin"):
            raise LabError(f"{tool} is missing: apt install mmdebstrap e2fsprogs")
    tree, log = target / "root", target / "build.log"
    say(f"building the {suite} image (about a minute)")
    _logged(log, [
        "mmdebstrap", "--mode=root", "--variant=minbase", "--components=main",
        f"--keyring={KEYRING}", f"--include={','.join(PACKAGES)}",
        '--aptopt=Apt::Install-Recommends "false"',
        f'--customize-hook=sh "{HERE}/rootfs/customize.sh" "$1" "{HERE}/rootfs"',
        suite, str(tree), mirror()])
    for link, name in (("vmlinuz", "vmlinuz"), ("initrd.img", "initrd.img")):
        shutil.copyfile((tree / "boot" / (tree / link).readlink().name), target / name)
    say(f"{suite}: writing the disk")
    _logged(log, ["/sbin/mke2fs", "-q", "-t", "ext4", "-E", "root_owner=0:0", "-d", str(tree),
                  str(target / "disk.raw"), DISK_SIZE])
    shutil.rmtree(tree)
    say(f"{suite}: image ready")


def _logged(log: Path, command: list[str]) -> None:
    with log.open("ab") as file:
        done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT,
                              stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise LabError(f"{command[0]} failed ({done.returncode}):\n{tail(log)}")
