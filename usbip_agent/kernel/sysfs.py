"""Reading and writing sysfs attributes, with faults that say which attribute and what the kernel said."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from usbip_agent.errors import KernelFault

SYSFS = Path("/sys")

_LARGEST_ATTRIBUTE = 65536
"""Bytes. sysfs text attributes have a page; ``descriptors`` may have several."""


def read_bytes(attribute: Path) -> bytes:
    """The content of *attribute*, empty when it is gone or has nothing to say just now.

    A device may disappear between any two reads; who asks decides by what else it knows.
    """
    try:
        descriptor = os.open(attribute, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(descriptor, _LARGEST_ATTRIBUTE)
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def read_text(attribute: Path) -> str:
    """The stripped text of *attribute*; what is not UTF-8 in it is replaced."""
    return read_bytes(attribute).decode("utf-8", "replace").strip()


def read_number(attribute: Path, *, base: int = 10) -> int:
    """The number in *attribute*, 0 when there is none: so an unconfigured device has configuration 0."""
    try:
        return int(read_text(attribute) or "0", base)
    except ValueError:
        return 0


def write(attribute: Path, value: str) -> None:
    """Writes *value* in one write, as sysfs wants it. KernelFault with the kernel's errno otherwise."""
    try:
        descriptor = os.open(attribute, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, value.encode("ascii"))
        finally:
            os.close(descriptor)
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, "?")
        raise KernelFault(
            f"writing {value!r} to {attribute}: {os.strerror(error.errno or 0)} [{name}]",
            errno=error.errno or errno.EIO) from None


def entries(directory: Path) -> list[Path]:
    """What is in *directory*, in the order of names; nothing when it is not there."""
    try:
        return sorted(directory.iterdir())
    except OSError:
        return []


def class_members(class_directory: Path, device: Path) -> list[Path]:
    """What of a class (``/sys/class/tty``) is on *device*, a directory of it or a link to one; by name.

    A class may have hundreds of members. What each links to is told by its text: following the links would
    take a look at every directory on the way.
    """
    top = f"{os.path.realpath(device)}/"
    try:
        real = os.path.realpath(class_directory)
        names = sorted(os.listdir(real))
    except OSError:
        return []
    found = []
    for name in names:
        try:
            target = os.readlink(f"{real}/{name}")
        except OSError:
            continue  # it has just gone
        if os.path.normpath(os.path.join(real, target)).startswith(top):
            found.append(class_directory / name)
    return found


def driver_of(directory: Path) -> str:
    """The name of the driver that holds the device in *directory*, empty when none does."""
    try:
        return os.path.basename(os.readlink(directory / "driver"))
    except OSError:
        return ""
