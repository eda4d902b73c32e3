"""``usbipa detach``: end an import."""

from __future__ import annotations

from argparse import ArgumentTypeError, Namespace
from typing import Final

from usbip_agent.cli.options import Verb, option
from usbip_agent.cli.output import print_line
from usbip_agent.errors import ExitStatus, Fault, UnknownDeviceFault
from usbip_agent.names import Service
from usbip_agent.text import printable


def run(service: Service, arguments: Namespace) -> int:
    from usbip_agent.cli.daemon import ask, code_of
    from usbip_agent.kernel.vhci import Vhci

    port: int = arguments.port
    try:
        ask(service, lambda client: client.call("Detach", "ua{sv}", port, {}))
    except Fault as fault:
        row = Vhci().row(port)
        if code_of(fault) != UnknownDeviceFault.code or row is None or not row.is_free:
            raise
        print_line(f"port {port}: nothing is attached")  # already so, as usbip detach has it
        return ExitStatus.DONE
    print_line(f"port {port}: detached")
    return ExitStatus.DONE


def vhci_port(text: str) -> int:
    """A port as ``status`` shows it."""
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise ArgumentTypeError(f'"{printable(text, 40)}" is no port (a number, see usbipa status)')
    return int(text)


VERB: Final = Verb("end an import", run, (
    option("port", type=vhci_port, metavar="PORT", help="the port, as status shows it"),))
