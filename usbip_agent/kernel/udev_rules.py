"""The rules that we give to udev, in /run: written whole or not at all, and only when they change.

udev looks for changed rules by itself, but at most every 3 s; told to, it knows them from the next event on.
An event that it has handled already stays as it was handled: ``mend_marks`` has it handled anew.
"""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from usbip_agent.blocking import in_thread
from usbip_agent.errors import KernelFault
from usbip_agent.kernel import sysfs

DIRECTORY = Path("/run/udev/rules.d")
CLAIMS = "61-usbip-agent-claims.rules"
"""Behind 50-udev-default, which reads a device's interfaces; before 69-libmtp, 77 to 80-mm and 80-udisks2."""

DATABASE = Path("/run/udev/data")
"""What udev knows of each device: ``c189:2`` is a USB device's, by its node."""

RELOAD = ("udevadm", "control", "--reload", "--timeout=5")
RELOAD_DEADLINE = 10.0
"""Seconds for udev to take the new rules. It does so between two events, whatever those are waiting for."""

MENDING_DEADLINE = 5.0
"""Seconds for small reads and writes; a device that keeps one of them for longer keeps its mark."""

log = logging.getLogger(__name__)


class UdevRules:
    """One rules file of ours."""

    def __init__(self, directory: Path = DIRECTORY, name: str = CLAIMS, *,
                 reload: Sequence[str] = RELOAD) -> None:
        self._file = directory / name
        self._reload = tuple(reload)

    async def put(self, text: str) -> bool:
        """Makes *text* the rules, or removes them when it is empty; False when they are just that already.

        When it returns, the next event is handled by them. KernelFault when the file cannot be written.
        """
        return await in_thread("udev rules", lambda: self._put(text), deadline=2 * RELOAD_DEADLINE)

    def _put(self, text: str) -> bool:
        if text == self._present():
            return False
        try:
            self._replace(text)
        except OSError as error:
            raise KernelFault(f"writing {self._file}: {error.strerror}", errno=error.errno or 0) from None
        self._tell_udev()
        return True

    def _present(self) -> str:
        try:
            return self._file.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def _replace(self, text: str) -> None:
        if not text:
            self._file.unlink(missing_ok=True)
            return
        directory = self._file.parent
        if not directory.is_dir():
            directory.mkdir(parents=True, exist_ok=True)
            directory.chmod(0o755)
        new = directory / f".{self._file.name}.new"  # not *.rules: udev does not read it half-written
        try:
            new.write_text(text, encoding="utf-8")
            new.chmod(0o644)
            os.replace(new, self._file)
        except OSError:
            new.unlink(missing_ok=True)
            raise

    def _tell_udev(self) -> None:
        """Whatever goes wrong here costs 3 s: udev sees by itself that the directory has changed."""
        try:
            done = subprocess.run(self._reload, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                  stderr=subprocess.PIPE, timeout=RELOAD_DEADLINE, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            log.info("udev was not told of %s: %s", self._file.name, error)
            return
        if done.returncode:
            log.info("udev was not told of %s: %s", self._file.name, done.stderr.decode(errors="replace"))


async def mend_marks(mark: str, expected: Mapping[Path, bool], database: Path = DATABASE) -> None:
    """Has udev apply its rules anew to the USB devices that have *mark* and should not, or the reverse.

    *expected* says it of devices' directories. For those that were there before the rules were: everybody
    hears a ``change`` of them, and of all that hangs on them. DeadlineFault.
    """
    await in_thread(
        "udev marks", lambda: _mend_marks(mark, expected, database), deadline=MENDING_DEADLINE)


def _mend_marks(mark: str, expected: Mapping[Path, bool], database: Path) -> None:
    for directory, should_be in expected.items():
        number = sysfs.read_text(directory / "dev")
        if number and _is_marked(mark, database / f"c{number}") is not should_be:
            _change(directory.resolve())


def _is_marked(mark: str, entry: Path) -> bool:
    """Whether udev's record of a device (which sd-device(3) reads as well) says that *mark* is set."""
    return f"E:{mark}=1" in sysfs.read_bytes(entry).decode("utf-8", "replace").splitlines()


def _change(directory: Path) -> None:
    """Parents first: children inherit what the rules say of them."""
    for uevent in _uevent_files(directory):
        try:
            sysfs.write(uevent, "change")
        except KernelFault as fault:
            log.debug("%s", fault)  # it went away


def _uevent_files(directory: Path) -> Iterator[Path]:
    for parent, children, files in os.walk(directory):
        # Behind a hub hang other devices, with marks of their own.
        children[:] = sorted(each for each in children if not (Path(parent) / each / "idVendor").exists())
        if "uevent" in files and (Path(parent) / "subsystem").exists():
            yield Path(parent) / "uevent"
