"""``usbip-agent disconnect``: un-export a device by hand, and hold it."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Final

from usbip_agent.cli.connect import is_vudc, report_of
from usbip_agent.cli.options import BUS_ID_OPTION, VUDC, Verb
from usbip_agent.cli.output import print_line
from usbip_agent.errors import ExitStatus
from usbip_agent.names import Service
from usbip_agent.report import DeviceReport, ExportState

if TYPE_CHECKING:
    from usbip_agent.bus.client import Client


def run(service: Service, arguments: Namespace) -> int:
    from usbip_agent.cli.daemon import ask

    bus_id: str = arguments.busid
    options = {"vudc": is_vudc(bus_id, arguments.device) or None}

    async def disconnect(client: Client) -> DeviceReport | None:
        await client.call("Disconnect", "sa{sv}", bus_id, options)
        return await report_of(client, bus_id)

    report = ask(service, disconnect)
    if report is not None and report.state != ExportState.HELD:
        print_line(f"{bus_id}: {report.state}" + (f": {report.reason}" if report.reason else ""))
    else:
        print_line(f"{bus_id}: disconnected, and held until connect or a replug")
    return ExitStatus.DONE


VERB: Final = Verb("un-export a device, and hold it until connect or a replug", run, (BUS_ID_OPTION, VUDC))
