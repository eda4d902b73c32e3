"""``usbip-agent connect``: export a device by hand."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Final

from usbip_agent.cli.options import BUS_ID_OPTION, TCP_PORT, VUDC, Verb, option, some_text
from usbip_agent.cli.output import print_line
from usbip_agent.device import VUDC_PREFIX
from usbip_agent.errors import ExitStatus, Fault, UsageFault
from usbip_agent.names import Service
from usbip_agent.report import DeviceReport, ExportState

if TYPE_CHECKING:
    from usbip_agent.bus.client import Client


def run(service: Service, arguments: Namespace) -> int:
    from usbip_agent.cli.daemon import ask

    bus_id: str = arguments.busid
    options = {"port": arguments.tcp_port, "vudc": is_vudc(bus_id, arguments.device) or None}

    async def connect(client: Client) -> DeviceReport | None:
        await client.call("Connect", "ssa{sv}", bus_id, arguments.remote, options)
        return await report_of(client, bus_id)

    report = ask(service, connect)
    if report is None:
        raise Fault(f"{bus_id} was unplugged meanwhile")
    if report.state in (ExportState.WAITING, ExportState.FAILED, ExportState.BLOCKED):
        raise Fault(f"{bus_id} is {report.state}: {report.reason}")
    where = f" ({report.peer}, {report.transport})" if report.peer else ""
    print_line(f"{bus_id}: {report.state} to {report.host}{where}")
    return ExitStatus.DONE


def is_vudc(bus_id: str, asked: bool) -> bool:
    """Whether the busid is that of a vUDC; ``-d`` may be left out, but not be wrong."""
    vudc = bus_id.startswith(VUDC_PREFIX)
    if asked and not vudc:
        raise UsageFault(f"{bus_id} is no vUDC", hint=f"-d goes with busids like {VUDC_PREFIX}0")
    return vudc


async def report_of(client: Client, bus_id: str) -> DeviceReport | None:
    """What the daemon says of the device now; None when it has gone."""
    for report in await client.reports():
        if isinstance(report, DeviceReport) and report.bus_id == bus_id:
            return report
    return None


VERB: Final = Verb("export a device by hand", run, (
    BUS_ID_OPTION,
    option("-r", "--remote", required=True, type=some_text, metavar="HOST",
           help="a host of the configuration, by its name or its address"),
    TCP_PORT, VUDC))
