"""``usbipa enroll``: print a join code for a node."""

from __future__ import annotations

from argparse import ArgumentTypeError, Namespace
from typing import TYPE_CHECKING, Any, Final

from usbip_agent.cli.options import JSON, TCP_PORT, Verb, option, some_text
from usbip_agent.cli.output import print_diagnostic, print_json
from usbip_agent.errors import ExitStatus
from usbip_agent.names import Service
from usbip_agent.policy.values import system_name

if TYPE_CHECKING:
    from usbip_agent.bus.client import Client


def run(service: Service, arguments: Namespace) -> int:
    from usbip_agent.cli.daemon import ask
    from usbip_agent.cli.nodes import node_names

    node: str = arguments.node

    async def enroll(client: Client) -> tuple[str, bool]:
        options: dict[str, Any] = {"host": arguments.host, "port": arguments.tcp_port}
        known = node in await node_names(client)
        return await client.call("Enroll", "sa{sv}", node, options), known

    code, known = ask(service, enroll)
    if arguments.json:
        print_json({"node": node, "code": code, "replaces": known})
        return ExitStatus.DONE
    if known:
        print_diagnostic(service.command,
                         f"{node} is enrolled already: whoever joins with this code takes its place")
    print(code)  # as it is: the line is to be pasted, and has no character that needs escaping
    return ExitStatus.DONE


def node_name(text: str) -> str:
    """A name that a node can be enrolled by."""
    try:
        return system_name(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


NODE: Final = option("node", metavar="NODE", type=node_name, help="what this host calls the node")

VERB: Final = Verb("print a join code for a node", run, (
    NODE,
    option("--host", metavar="NAME", type=some_text,
           help="how the node reaches this host: a name, an address or a wss:// URL"),
    TCP_PORT, JSON),
    "On the node, usbip-agent join CODE does the rest. A code can be used once, within an hour; a newer one "
    "for the same node makes it void. For a node that is enrolled already, it replaces the certificate.")
