"""The objects that a daemon shows: one for each report, with the signals that tell what became of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from usbip_agent.bus.paths import child_path, path_of
from usbip_agent.bus.standard import OBJECT_MANAGER, PROPERTIES
from usbip_agent.bus.values import variants_of
from usbip_agent.names import Service
from usbip_agent.report import Report

Emit = Callable[[str, str, str, str, list[Any]], None]
"""Sends a signal: path, interface, member, signature, body."""


class Publisher:
    """Keeps the reports by object path.

    InterfacesAdded and InterfacesRemoved leave from the manager's path, where ObjectManager is: GLib's client
    listens nowhere else. PropertiesChanged leaves from the object's own path.
    """

    def __init__(self, service: Service, emit: Emit) -> None:
        self._service = service
        self._emit = emit
        self._reports: dict[str, Report] = {}

    def put(self, report: Report) -> None:
        """Show *report*: as a new object, or by the changes to the one shown. Nothing when it is equal."""
        path = path_of(self._service, report)
        shown = self._reports.get(path)
        if shown == report:
            return
        self._reports[path] = report
        properties = variants_of(report)
        if shown is None:
            self._emit(self._service.manager_path, OBJECT_MANAGER, "InterfacesAdded", "oa{sa{sv}}",
                       [path, {self._service.child_interface: properties}])
            return
        before = variants_of(shown)
        changed = {name: value for name, value in properties.items() if value != before[name]}
        if changed:
            self._emit(path, PROPERTIES, "PropertiesChanged", "sa{sv}as",
                       [self._service.child_interface, changed, []])

    def remove(self, key: str | int) -> None:
        """Show the device (*key*: its busid) or import (its port) no more. Nothing when it was not shown."""
        path = child_path(self._service, key)
        if self._reports.pop(path, None) is not None:
            self._emit(self._service.manager_path, OBJECT_MANAGER, "InterfacesRemoved", "oas",
                       [path, [self._service.child_interface]])

    def at(self, path: str) -> Report | None:
        """The report shown at an object path."""
        return self._reports.get(path)

    def __iter__(self) -> Iterator[tuple[str, Report]]:
        """All objects: path and report, the longest shown first."""
        return iter(self._reports.items())
