"""``usbip-agent status`` and ``usbipa status`` (``usbipa port``): what the daemon shows of its objects."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Final

from usbip_agent.cli.options import JSON, Verb
from usbip_agent.cli.output import (
    ago, duration, natural_order, print_diagnostic, print_json, print_line, print_table)
from usbip_agent.cli.program import line_of
from usbip_agent.errors import ExitStatus, UnavailableFault
from usbip_agent.names import Service
from usbip_agent.report import DeviceReport, ExportState, ImportReport, ImportState, Report


def run_devices(service: Service, arguments: Namespace) -> int:
    status, reports = _ask(service)
    devices = sorted((report for report in reports if isinstance(report, DeviceReport)),
                     key=lambda report: natural_order(report.bus_id))
    if arguments.json:
        print_json({"devices": [asdict(report) for report in devices]})
    elif devices:
        print_table(("BUSID", "DEVICE", "STATE", "HOST", "SINCE"), map(device_row, devices))
    else:
        print_line("no devices")
    return status


def run_imports(service: Service, arguments: Namespace) -> int:
    status, reports = _ask(service)
    imports = sorted((report for report in reports if isinstance(report, ImportReport)),
                     key=lambda report: report.port)
    if arguments.json:
        print_json({"imports": [asdict(report) for report in imports]})
    elif imports:
        print_table(("PORT", "FROM", "BUSID", "DEVICE", "LOCAL", "SINCE", "NODES"),
                    map(import_row, imports))
    else:
        print_line("no imports")
    return status


def _ask(service: Service) -> tuple[ExitStatus, Sequence[Report]]:
    """The daemon's reports, and the status to end with, which also says if the kernel module is missing."""
    from usbip_agent.cli.daemon import ask
    from usbip_agent.cli.modules import module_fault

    missing = module_fault(service)
    try:
        reports = ask(service, lambda client: client.reports())
    except UnavailableFault as fault:
        if missing is None:
            raise
        raise UnavailableFault(f"{fault.what}, and {missing.what}",
                               hint=f"{service.command} doctor says what helps") from None
    if missing is None:
        return ExitStatus.DONE, reports
    print_diagnostic(service.command, line_of(missing))
    return missing.exit_status, reports


def device_row(report: DeviceReport) -> tuple[Sequence[str], Sequence[str]]:
    """The cells of a device, and what stands below it."""
    cells = (report.bus_id, name_of(report), report.state, report.host or "-", ago(report.since))
    return cells, tuple(_device_notes(report))


def _device_notes(report: DeviceReport) -> Iterator[str]:
    if report.state == ExportState.CONNECTED:
        if report.peer:
            yield f"{report.transport} to {report.peer}, by {report.rule or 'hand'}"
        return
    if report.reason:
        yield report.reason
    if report.next_attempt:
        import time
        wait = max(0.0, report.next_attempt / 1_000_000 - time.time())
        yield f"attempt {report.attempts + 1} in {duration(wait)}"


def import_row(report: ImportReport) -> tuple[Sequence[str], Sequence[str]]:
    """The cells of an import; there is more to say only of one that is not attached."""
    origin = f"{report.node} ({report.peer})" if report.node else report.peer
    cells = (str(report.port), origin, report.bus_id, name_of(report), report.local_bus_id or "-",
             ago(report.since), " ".join(report.device_nodes) or "-")
    return cells, () if report.state == ImportState.ATTACHED else (report.state,)


def name_of(report: Report) -> str:
    """``10c4:ea60 Silicon Labs CP2102``: ids, and what the device calls itself."""
    words = (report.manufacturer, report.model) if isinstance(report, DeviceReport) else (report.model,)
    return " ".join([f"{report.vendor}:{report.product}", *filter(None, words)])


DEVICES: Final = Verb("show every device: its state, host, and the reason when it is not connected",
                      run_devices, (JSON,))
IMPORTS: Final = Verb("show every imported device and the device nodes it became", run_imports, (JSON,))
