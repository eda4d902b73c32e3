"""What can go wrong, as a small closed set.

Each fault knows its code (journal field ``USBIP_CODE``, last part of its D-Bus name) and the exit status that
a command ends with. Nothing else in the program decides what an error looks like from outside.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar, Final

from usbip_agent.names import DBUS_ERROR_PREFIX


class ExitStatus(IntEnum):
    """Exit statuses of both commands (sysexits.h where it has a word for it)."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    UNAVAILABLE = 69
    INVALID_CONFIGURATION = 78
    INTERRUPTED = 130


class Fault(Exception):
    """A foreseeable failure: what and why in one line, and, as *hint*, what to do about it."""

    code: ClassVar[str] = "Failed"
    exit_status: ClassVar[ExitStatus] = ExitStatus.FAILED

    def __init__(self, what: str, *, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what} ({self.hint})" if self.hint else self.what

    @property
    def dbus_name(self) -> str:
        """``org.usbip.Error.<code>``"""
        return f"{DBUS_ERROR_PREFIX}.{self.code}"


class UsageFault(Fault):
    """The command or the call was given something it does not take."""

    code = "InvalidArgument"
    exit_status = ExitStatus.USAGE


class ConfigurationFault(Fault):
    """The configuration is invalid; nothing of it was applied."""

    code = "InvalidConfiguration"
    exit_status = ExitStatus.INVALID_CONFIGURATION


class UnavailableFault(Fault):
    """The service is not running, or its D-Bus name is held by somebody else."""

    code = "Unavailable"
    exit_status = ExitStatus.UNAVAILABLE


class ModuleFault(Fault):
    """A kernel module that is needed is not loaded."""

    code = "ModuleMissing"
    exit_status = ExitStatus.UNAVAILABLE


class UnknownDeviceFault(Fault):
    """No such busid (device side) or port (application side) here."""

    code = "UnknownDevice"


class NotExportableFault(Fault):
    """The device exists but may not be exported: a hub, or a device that is itself imported."""

    code = "NotExportable"


class UnreachableFault(Fault):
    """The host could not be reached: name, route, refusal of the connection, silence."""

    code = "Unreachable"


class RefusedFault(Fault):
    """The other side was reached and said no."""

    code = "Refused"


class ProtocolFault(Fault):
    """The other side said something that is no USB/IP, or hung up in the middle of it."""

    code = "Protocol"


class DeadlineFault(Fault):
    """Something did not happen in time."""

    code = "DeadlineExceeded"


class IdentityFault(Fault):
    """A key or certificate of our own is damaged, missing or unreadable."""

    code = "Identity"


class KernelFault(Fault):
    """The kernel refused a write to sysfs; ``errno`` is what it said."""

    code = "Kernel"

    def __init__(self, what: str, *, errno: int, hint: str = "") -> None:
        super().__init__(what, hint=hint)
        self.errno = errno


class NoFreePortFault(Fault):
    """All vhci-hcd ports of the right speed are taken."""

    code = "NoFreePort"


class BusyFault(Fault):
    """The device is in use by something that is not ours (stock usbipd, another agent)."""

    code = "Busy"


class BlockedFault(Fault):
    """Something of the running system stands on the device; taking it away would do harm."""

    code = "Blocked"


class PermissionFault(Fault):
    """The caller may not do this."""

    code = "NotPermitted"


class UnknownNodeFault(Fault):
    """No node of that name is enrolled here."""

    code = "UnknownNode"


ALL_FAULTS: Final[tuple[type[Fault], ...]] = (
    Fault, UsageFault, ConfigurationFault, UnavailableFault, ModuleFault, UnknownDeviceFault,
    UnknownNodeFault, NotExportableFault, UnreachableFault, RefusedFault, ProtocolFault, DeadlineFault,
    IdentityFault, KernelFault, NoFreePortFault, BusyFault, BlockedFault, PermissionFault,
)


def exit_status_of_dbus_name(dbus_name: str) -> ExitStatus:
    """The exit status of a command whose call ended with the D-Bus error *dbus_name*."""
    for fault in ALL_FAULTS:
        if dbus_name == f"{DBUS_ERROR_PREFIX}.{fault.code}":
            return fault.exit_status
    return ExitStatus.FAILED
