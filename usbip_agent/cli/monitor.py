"""``monitor``: a line, or a JSON object, for each change until interrupted, over restarts of the daemon."""

from __future__ import annotations

import time
from argparse import Namespace
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from usbip_agent.cli.options import JSON, Verb
from usbip_agent.cli.output import print_diagnostic, print_json_line, print_line
from usbip_agent.cli.status import name_of
from usbip_agent.errors import UnavailableFault
from usbip_agent.names import Service
from usbip_agent.report import DeviceReport, Report

if TYPE_CHECKING:
    from usbip_agent.bus.client import Client


def run(service: Service, arguments: Namespace) -> int:
    from usbip_agent.bus.client import Added, Changed, Returned, Vanished
    from usbip_agent.cli.daemon import ask

    async def show(client: Client) -> int:
        async for change in client.changes():
            if isinstance(change, Vanished | Returned):
                news = ("is back" if isinstance(change, Returned) else
                        "has stopped, waiting for it to come back")
                print_diagnostic(service.command, f"{service.command} {news}")
                continue
            before = change.before if isinstance(change, Changed) else None
            kind = "added" if isinstance(change, Added) else "changed" if before else "removed"
            if arguments.json:
                print_json_line(change_as_json(kind, change.report))
            else:
                print_line(change_line(kind, change.report, before))
                _flush()
        raise UnavailableFault("the connection to the system bus is lost", hint="systemctl status dbus")

    return ask(service, show)


def change_as_json(kind: str, report: Report) -> dict[str, Any]:
    """One object of ``monitor --json``; *kind* is added, changed or removed."""
    return {"change": kind, "device" if isinstance(report, DeviceReport) else "import": asdict(report)}


def change_line(kind: str, report: Report, before: Report | None = None) -> str:
    """``14:05:12  1-1.4  10c4:ea60 CP2102  connecting → connected  lab``"""
    state = str(report.state)
    if before is not None and before.state != report.state:
        state = f"{before.state} → {report.state}"
    if isinstance(report, DeviceReport):
        key, details = report.bus_id, [report.host, report.reason]
    else:
        key = f"port {report.port}"
        details = [report.node or report.peer, report.bus_id, *report.device_nodes]
    what = state if kind == "changed" else f"{kind}, {state}" if kind == "added" else kind
    return "  ".join([time.strftime("%H:%M:%S"), key, name_of(report), what, *filter(None, details)])


def _flush() -> None:
    import sys
    sys.stdout.flush()


VERB: Final = Verb("show each change as it happens, until interrupted", run, (JSON,))
