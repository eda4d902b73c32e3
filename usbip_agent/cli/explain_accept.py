"""``usbipa explain``: whether an export would be accepted, by which rule, and why not by the earlier ones."""

from __future__ import annotations

import ipaddress
from argparse import ArgumentTypeError, Namespace
from typing import Final

from usbip_agent.cli.hypothetical import OPTIONS, device_described
from usbip_agent.cli.options import CONFIGURATION, JSON, Verb, option, some_text
from usbip_agent.cli.output import print_json, print_line
from usbip_agent.errors import ExitStatus
from usbip_agent.names import Service
from usbip_agent.text import printable

LOCAL: Final = "127.0.0.1"


def run(service: Service, arguments: Namespace) -> int:
    from usbip_agent.cli.policies import accept_policy, configured
    from usbip_agent.policy.explain import lines, plain

    device = device_described(arguments)
    address: ipaddress.IPv4Address | ipaddress.IPv6Address = arguments.address
    node: str | None = arguments.node
    policy = accept_policy(configured(service, arguments.config))
    decision = policy.explain(node=node, peer=address, device=device)
    if arguments.json:
        answer = plain(decision)
        print_json({"rule": answer["rule"], "verdict": answer["verdict"], "steps": answer["steps"],
                    "node": node or "", "address": str(address), "bus_id": device.bus_id,
                    "vendor": device.vendor, "product": device.product})
        return ExitStatus.DONE
    print_line(f"{device.description} from {node or 'nobody authenticated'} at {address}")
    for line in lines(decision):
        print_line(line)
    return ExitStatus.DONE


def ip_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The address of a peer."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        raise ArgumentTypeError(f'"{printable(text, 60)}" is no IP address') from None


VERB: Final = Verb("show which rule decides about an export, and why the earlier ones did not", run, (
    option("--node", type=some_text, metavar="NODE", help="the authenticated node (else nobody: plain)"),
    option("--address", type=ip_address, default=LOCAL, metavar="ADDRESS",
           help=f"the peer's address (else {LOCAL})"),
    *OPTIONS, CONFIGURATION, JSON))
