"""One QEMU process: its command line, its life, and its state on disk. Knows nothing of Debian."""
from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .image import Image
from .qmp import Qmp
from .report import LabError, Timeout, tail

QEMU = "qemu-system-x86_64"
MEMORY = 768
USB2_PORTS, USB3_PORTS = 15, 8
APPEND = ("root=/dev/vda rw console=ttyS0 net.ifnames=0 mitigations=off audit=0 "
          "systemd.show_status=0 panic=-1 no_timer_check")


def accelerator() -> list[str]:
    """TCG, which always works. ``$USBIP_LAB_ACCEL=kvm`` is for machines known to run a kernel.

    There is no probing: /dev/kvm may accept a guest and then fail in the middle of its boot.
    """
    if os.environ.get("USBIP_LAB_ACCEL") == "kvm":
        return ["-accel", "kvm", "-cpu", "host"]
    return ["-accel", "tcg,thread=multi", "-cpu", "max,la57=off"]


def version() -> str:
    """What a saved state depends on beside the image: a state is for one QEMU and one machine."""
    if not shutil.which(QEMU):
        raise LabError(f"{QEMU} is missing: apt install qemu-system-x86")
    text = subprocess.run([QEMU, "--version"], capture_output=True, text=True, check=True).stdout
    return text.splitlines()[0] + " ".join(accelerator()) + APPEND + f"{MEMORY}/{USB3_PORTS}"


@dataclass(frozen=True)
class State:
    """A disk that may be the parent of overlays, and perhaps the memory that goes with it."""

    image: Image
    disk: Path
    disk_format: str
    memory: Path | None
    key: str


class Machine:
    """A virtual machine, made paused; ``go`` lets it run.

    It dies with the *thread* that made it (PR_SET_PDEATHSIG), so make it in the main one.
    """

    def __init__(self, state: State, work: Path, network: int, mac: str) -> None:
        self.console = work / "console.log"
        self.log = work / "qemu.log"
        self.overlay = work / "disk.qcow2"
        self._image = state.image
        self._arguments = network, mac
        if not self.overlay.exists():
            _overlay(self.overlay, state.disk, state.disk_format)
        self.channel_socket: socket.socket
        self.qmp: Qmp
        self._process: subprocess.Popen[bytes] | None = None
        self._launch(state.memory)

    def _launch(self, memory: Path | None) -> None:
        ours, channel = socket.socketpair()
        monitor, qmp = socket.socketpair()
        network, mac = self._arguments
        command = [
            "setpriv", "--pdeathsig", "KILL", QEMU,
            "-nodefaults", "-no-user-config", "-display", "none", "-M", "q35", "-S",
            *accelerator(), "-m", str(MEMORY), "-smp", "1", "-rtc", "base=utc,clock=host",
            "-kernel", str(self._image.kernel), "-initrd", str(self._image.initrd),
            "-append", APPEND,
            "-blockdev", "driver=qcow2,node-name=disk,cache.no-flush=on,discard=unmap,"
                         f"file.driver=file,file.filename={self.overlay}",
            "-device", "virtio-blk-pci,drive=disk",
            "-device", "virtio-serial-pci", "-chardev", f"socket,id=lab,fd={channel.fileno()}",
            "-device", "virtserialport,chardev=lab,name=lab",
            "-chardev", f"socket,id=qmp,fd={qmp.fileno()}", "-mon", "chardev=qmp,mode=control",
            "-chardev", f"file,id=console,append=on,path={self.console}",
            "-serial", "chardev:console",
            "-netdev", f"dgram,id=net0,local.type=fd,local.str={network}",
            "-device", f"virtio-net-pci,id=nic0,netdev=net0,mac={mac},romfile=",
            "-device", "virtio-rng-pci", "-audiodev", "none,id=silence",
            "-device", f"qemu-xhci,id=xhci,p2={USB2_PORTS},p3={USB3_PORTS}",
        ]
        if memory is not None:
            command += ["-incoming", "defer"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                pass_fds=(channel.fileno(), qmp.fileno(), network))
        channel.close()
        qmp.close()
        self.channel_socket = ours
        try:
            self.qmp = Qmp(monitor)
            if memory is not None:
                self._migrate("migrate-incoming", f"exec:cat < {shlex.quote(str(memory))}")
        except LabError as error:
            self.kill()
            raise LabError(f"QEMU did not start: {error}\n{tail(self.log)}") from error

    def go(self) -> None:
        """Lets the processor run."""
        self.qmp.command("cont")

    def kill(self) -> None:
        """Ends QEMU as a power cut does; the overlay stays."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(20)
            self._process = None
        if hasattr(self, "qmp"):
            self.qmp.close()

    @property
    def alive(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def save(self, directory: Path) -> None:
        """Stops the machine for good, and leaves its memory and disk in ``directory``."""
        self.qmp.command("stop")
        part = directory / "memory"
        self._migrate("migrate", f"exec:cat > {shlex.quote(str(part))}")
        self.qmp.command("quit")
        assert self._process is not None
        self._process.wait(20)
        self._process = None
        shutil.copyfile(self.overlay, directory / "disk.qcow2")
        for path in (part, directory / "disk.qcow2"):
            path.chmod(0o444)

    def _migrate(self, command: str, uri: str) -> None:
        self.qmp.command("migrate-set-capabilities",
                         capabilities=[{"capability": "events", "state": True}])
        if command == "migrate":
            self.qmp.command("migrate-set-parameters", max_bandwidth=1 << 40)
        self.qmp.command(command, uri=uri)
        try:
            end = self.qmp.wait_event("MIGRATION", 120.0,
                                      lambda data: data["status"] in ("completed", "failed"))
        except Timeout:
            raise Timeout(f"the machine's state was not moved: {command} {uri}") from None
        if end["status"] == "failed":
            raise LabError(f"{command} {uri} failed")


def _overlay(path: Path, backing: Path, backing_format: str) -> None:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", backing_format,
                    "-b", str(backing), str(path)], check=True)
