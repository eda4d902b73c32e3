"""The names that the D-Bus specification gives: interfaces, errors, and the bus itself."""

from __future__ import annotations

from typing import Final

BUS: Final = "org.freedesktop.DBus"
"""The bus driver: its name and its interface."""

BUS_PATH: Final = "/org/freedesktop/DBus"

PEER: Final = "org.freedesktop.DBus.Peer"
INTROSPECTABLE: Final = "org.freedesktop.DBus.Introspectable"
PROPERTIES: Final = "org.freedesktop.DBus.Properties"
OBJECT_MANAGER: Final = "org.freedesktop.DBus.ObjectManager"


class Error:
    """Standard error names. What is ours to say has a name below ``org.usbip.Error`` instead."""

    UNKNOWN_OBJECT: Final = "org.freedesktop.DBus.Error.UnknownObject"
    UNKNOWN_INTERFACE: Final = "org.freedesktop.DBus.Error.UnknownInterface"
    UNKNOWN_METHOD: Final = "org.freedesktop.DBus.Error.UnknownMethod"
    UNKNOWN_PROPERTY: Final = "org.freedesktop.DBus.Error.UnknownProperty"
    PROPERTY_READ_ONLY: Final = "org.freedesktop.DBus.Error.PropertyReadOnly"
    INVALID_ARGS: Final = "org.freedesktop.DBus.Error.InvalidArgs"
    LIMITS_EXCEEDED: Final = "org.freedesktop.DBus.Error.LimitsExceeded"
    ACCESS_DENIED: Final = "org.freedesktop.DBus.Error.AccessDenied"
    SERVICE_UNKNOWN: Final = "org.freedesktop.DBus.Error.ServiceUnknown"
    NAME_HAS_NO_OWNER: Final = "org.freedesktop.DBus.Error.NameHasNoOwner"
    NO_REPLY: Final = "org.freedesktop.DBus.Error.NoReply"


class CallError(Exception):
    """A method call's error reply: what we send, or what we were sent."""

    def __init__(self, dbus_name: str, message: str) -> None:
        super().__init__(message)
        self.dbus_name = dbus_name
        self.message = message
