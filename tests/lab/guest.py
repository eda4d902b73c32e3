"""One guest: start it from a snapshot or cold, run commands in it, plug devices, cut its cable."""
from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Iterable, Sequence

from .channel import GRACE, Channel, Job, Result
from .devices import Device, Stick
from .machine import Machine, State
from .network import Switch
from .qmp import Qmp
from .report import LabError, Timeout, tail

NUMBERS = {"node": 1, "host": 2, "backup": 3}
BOOT = 300.0          # seconds that a cold boot may take under emulation
MARK = "lab: watching from here"
COMPLAINT = re.compile(
    r"WARNING:|BUG:|Oops|KASAN|UBSAN|hung task|blocked for more than|general protection|"
    r"Call Trace|refcount_t|use-after-free|possible recursive locking|rcu.*stall|soft lockup")
# Seen on every boot of an undisturbed guest; none of them concerns USB or USB/IP.
BENIGN = re.compile(r"Spectre|MDS|MMIO Stale|RETBleed|unpatched|ITS: ")
CONTEXT = r"""
echo "--- vhci ports that are not free"
cat /sys/devices/platform/vhci_hcd.0/status* 2>/dev/null | grep -v ' 00[45] ' | head -40
echo "--- usb devices (busid, ids, driver, usbip_status)"
for path in /sys/bus/usb/devices/*-*; do
    case $path in *:*) continue; esac; [ -e "$path/idVendor" ] || continue
    echo "${path##*/} $(cat "$path/idVendor"):$(cat "$path/idProduct")" \
        "$(basename "$(readlink "$path/driver")") $(cat "$path/usbip_status" 2>/dev/null)"
done
echo "--- failed units"; systemctl list-units --failed --no-legend --plain
echo "--- dmesg"; dmesg | tail -n 30
echo "--- journal"; journalctl -o short-precise --no-pager -n 60 --no-hostname
"""


@dataclass(frozen=True)
class Identity:
    """Name and addresses of a guest on the cable; all names are in every /etc/hosts."""

    name: str

    @property
    def number(self) -> int:
        """Its place on the cable."""
        return NUMBERS.get(self.name) or 10 + sum(self.name.encode()) % 200

    @property
    def ipv4(self) -> str:
        """10.77.0.1 is the node, .2 the host."""
        return f"10.77.0.{self.number}"

    @property
    def ipv6(self) -> str:
        """fd77::1 is the node, ::2 the host."""
        return f"fd77::{self.number:x}"

    @property
    def mac(self) -> str:
        """The hardware address that goes with it."""
        return f"52:54:00:77:00:{self.number:02x}"

    def file(self) -> bytes:
        """What ``lab-identity`` in the guest reads."""
        return (f"NAME={self.name}\nMAC={self.mac}\n"
                f"IPV4={self.ipv4}\nIPV6={self.ipv6}\n").encode()


class Guest:
    """A guest of the lab. ``start`` and ``ready`` are apart so that several can start at once."""

    def __init__(self, name: str, state: State, switch: Switch, work: Path) -> None:
        self.identity = Identity(name)
        self.name = name
        self.address = self.identity.ipv4
        self.work = work
        self.devices: list[Device] = []
        self._state = state
        self._switch = switch
        self._network = switch.port()
        self._machine: Machine | None = None
        self._channel: Channel | None = None
        self._cold = False
        work.mkdir(parents=True, exist_ok=True)

    # Life

    def start(self, cold: bool = False, devices: Iterable[tuple[Device, int | str]] = ()) -> None:
        """Lets it run; a warm start continues the snapshot, a cold one boots its disk.

        ``devices`` (with their ports) are there before the first instruction. After a power cut
        the disk is kept, and only a cold start makes sense.
        """
        memory = None if cold else self._state.memory
        self._cold = memory is None
        state = State(self._state.image, self._state.disk, self._state.disk_format, memory,
                      self._state.key)
        self._machine = Machine(state, self.work, self._network, self.identity.mac)
        self._channel = Channel(self._machine.channel_socket)
        for device in self.devices:         # those of before a power cut are still in their ports
            device.plug(self.qmp, device.port)
        for device, port in devices:
            device.plug(self.qmp, port)
            self.devices.append(device)
        self._machine.go()

    def ready(self, deadline: float = BOOT) -> None:
        """Waits until commands can be run and the guest has its name, addresses and the time."""
        try:
            if self._cold:
                self.channel.wait_boot(1, deadline)
            self._settle(deadline)
        except LabError as error:
            raise LabError(f"{self.name} did not start: {error}\n{self.console()}") from error

    def reboot(self, deadline: float = BOOT, hard: bool = False) -> None:
        """Restarts it in an orderly way, or as the reset button does; waits until it is back."""
        boots = len(self.channel.boots)
        if hard:
            self.qmp.command("system_reset")
        else:
            self.start_job("systemctl reboot")
        self.channel.wait_boot(boots + 1, deadline)
        self._settle(deadline)

    def power_cut(self) -> None:
        """Ends it without warning. ``start(cold=True)`` boots it from the disk it leaves."""
        if self._machine is not None:
            self._machine.kill()
        if self._channel is not None:
            self._channel.close()

    def close(self) -> None:
        """Ends it and removes what its devices left."""
        self.power_cut()
        for device in self.devices:
            device.close()

    def save(self, directory: Path) -> None:
        """Freezes memory and disk into a directory; the guest has ended then."""
        self.run("sync")
        self.machine.save(directory)
        self.channel.close()

    def freeze(self) -> None:
        """Stops its processor: it neither answers nor notices."""
        self.qmp.command("stop")

    def thaw(self) -> None:
        """Undoes ``freeze``."""
        self.qmp.command("cont")

    def _settle(self, deadline: float) -> None:
        self.channel.resume(deadline)
        self.put("/etc/lab/identity", self.identity.file())
        self.run(["/usr/local/sbin/lab-identity"])
        self.mark()

    # Commands and files

    def run(self, command: str | Sequence[str], timeout: float = 60.0, stdin: bytes = b"",
            check: bool = True) -> Result:
        """Runs a command as root: a text by ``sh -c``, a list as it is. Waits for its end."""
        job = self.start_job(command, timeout, stdin)
        result = job.wait(timeout + GRACE)
        if result.timed_out:
            raise Timeout(f"{self.name}: {job.what!r} ran longer than {timeout:g} s\n"
                          f"{result.stdout}\n{result.stderr}")
        if check and result.rc:
            raise LabError(f"{self.name}: {job.what!r} returned {result.rc}\n"
                           f"{result.stdout}\n{result.stderr}")
        return result

    def sh(self, command: str, timeout: float = 60.0) -> str:
        """The output of a shell command that must succeed."""
        return self.run(command, timeout).stdout

    def start_job(self, command: str | Sequence[str], timeout: float | None = None,
                  stdin: bytes = b"") -> Job:
        """Starts a command in the background: see ``Job`` for reading, waiting and ending."""
        argv = ["sh", "-c", command] if isinstance(command, str) else list(command)
        return self.channel.start(argv, timeout, stdin)

    def until(self, condition: str, deadline: float = 20.0, every: float = 0.1) -> None:
        """Waits *in the guest* until a shell condition holds; fails with the guest's context."""
        loop = f"until {{ {condition}\n}} >/dev/null 2>&1; do sleep {every:g}; done"
        result = self.start_job(loop, deadline).wait(deadline + GRACE)
        if result.timed_out or result.rc:
            raise Timeout(f"{self.name}: not within {deadline:g} s: {condition}\n{self.context()}")

    def put(self, path: str, data: bytes | str | Path, mode: int = 0o644) -> None:
        """Writes a file in the guest; a ``Path`` is a file of this machine."""
        content = data.read_bytes() if isinstance(data, Path) else data
        self.channel.put(path, content.encode() if isinstance(content, str) else content, mode)

    def get(self, path: str) -> bytes:
        """The content of a file in the guest (not of /proc or /sys: ``run`` cat for those)."""
        return self.channel.get(path)

    def install(self, debs: Iterable[Path], timeout: float = 600.0) -> None:
        """Installs packages as an administrator does; there is no network to fetch others from."""
        names = []
        for deb in debs:
            names.append(f"/root/debs/{deb.name}")
            self.put(names[-1], deb)
        if names:
            self.run(["apt-get", "install", "-y", "-q", *names], timeout)

    # Devices and the cable

    def disk_hash(self, stick: Stick, deadline: float = 120.0) -> str:
        """Waits for a stick's disk in this guest, local or imported, and reads all of it."""
        self.until(f"[ -b {stick.disk} ]", deadline)
        return self.sh(f"sha256sum {stick.disk}", deadline).split()[0]

    def plug(self, device: Device, port: int | str, wait: bool = True) -> str:
        """Plugs a device in and returns its bus id; waits until the guest's kernel has it."""
        device.plug(self.qmp, port)
        self.devices.append(device)
        if wait:
            self.until(f"[ -e /sys/bus/usb/devices/{device.busid}/bConfigurationValue ]")
        return device.busid

    def unplug(self, device: Device, wait: bool = True) -> None:
        """Pulls a device out; it can be plugged again."""
        busid = device.busid
        device.unplug(self.qmp)
        self.devices.remove(device)
        if wait:
            self.until(f"[ ! -e /sys/bus/usb/devices/{busid} ]")

    def cut(self, silent: bool = False) -> None:
        """Cuts the network cable; ``silent`` = somewhere far away, the carrier stays."""
        if silent:
            self._switch.block(self._network, True)
        else:
            self.qmp.command("set_link", name="nic0", up=False)

    def mend(self) -> None:
        """Undoes ``cut``."""
        self._switch.block(self._network, False)
        self.qmp.command("set_link", name="nic0", up=True)

    # Evidence

    def mark(self) -> None:
        """From here on ``dmesg_warnings`` counts; done at every start."""
        self.run(f"echo '{MARK}' > /dev/kmsg")

    def dmesg_warnings(self) -> list[str]:
        """The kernel's complaints since the start or the last ``mark``."""
        lines = self.sh("dmesg").splitlines()
        marks = [index for index, line in enumerate(lines) if line.endswith(MARK)]
        since = lines[marks[-1]:] if marks else lines
        return [line for line in since if COMPLAINT.search(line) and not BENIGN.search(line)]

    def journal(self, unit: str = "") -> str:
        """The journal of this boot, of all or one unit."""
        chosen = f"-u {unit}" if unit else ""
        return self.sh(f"journalctl -b -o short-precise --no-pager {chosen}")

    def context(self) -> str:
        """What one wants to see when something went wrong; never raises."""
        try:
            return self.run(CONTEXT, 40, check=False).stdout
        except LabError as error:
            return f"(no answer: {error})\n{self.console()}"

    def console(self) -> str:
        """The tail of the serial console and of QEMU's own messages."""
        return f"console of {self.name}:\n{tail(self.work / 'console.log')}\n" \
               f"qemu:\n{tail(self.work / 'qemu.log')}"

    @property
    def qmp(self) -> Qmp:
        """QEMU's monitor."""
        return self.machine.qmp

    @property
    def machine(self) -> Machine:
        """The QEMU process."""
        if self._machine is None:
            raise LabError(f"{self.name} is not started")
        return self._machine

    @property
    def channel(self) -> Channel:
        """The connection to the agent."""
        if self._channel is None:
            raise LabError(f"{self.name} is not started")
        return self._channel
