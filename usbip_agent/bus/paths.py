"""Object paths of devices and imports.

A path's element may hold ``[A-Za-z0-9_]`` only, and a busid has dashes and dots. As sd_bus_path_encode(3) and
bolt have it: every byte outside of ``[A-Za-z0-9]``, and a digit at the beginning, becomes ``_`` and two
lower-case hex digits. ``1-1.4`` is ``_31_2d1_2e4``. A port is a number and stays one.
"""

from __future__ import annotations

import re

from usbip_agent.names import Service
from usbip_agent.report import DeviceReport, Report

_ESCAPE = re.compile(r"_([0-9a-f]{2})")


def escape(text: str) -> str:
    """*text* as one element of an object path; ``_`` for the empty text."""
    return "".join(
        chr(byte) if chr(byte).isalnum() and byte < 0x80 and not (position == 0 and chr(byte).isdigit())
        else f"_{byte:02x}"
        for position, byte in enumerate(text.encode("utf-8", "backslashreplace"))
    ) or "_"


def unescape(element: str) -> str:
    """The text that ``escape`` made *element* from."""
    if element == "_":
        return ""
    raw = _ESCAPE.sub(lambda match: chr(int(match[1], 16)), element)
    return raw.encode("latin-1", "replace").decode("utf-8", "replace")


def child_path(service: Service, key: str | int) -> str:
    """The object path of a device (*key* is its busid) or of an import (its port)."""
    return f"{service.child_path}/{key if isinstance(key, int) else escape(key)}"


def path_of(service: Service, report: Report) -> str:
    """The object path under which *report* is published."""
    return child_path(service, report.bus_id if isinstance(report, DeviceReport) else report.port)
