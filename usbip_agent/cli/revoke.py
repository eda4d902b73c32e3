"""``usbipa revoke``: refuse a node from now on, and end its imports."""

from __future__ import annotations

from argparse import Namespace
from typing import Final

from usbip_agent.cli.enroll import NODE
from usbip_agent.cli.options import Verb
from usbip_agent.cli.output import print_line
from usbip_agent.errors import ExitStatus
from usbip_agent.names import Service


def run(service: Service, arguments: Namespace) -> int:
    from usbip_agent.cli.daemon import ask

    node: str = arguments.node
    ask(service, lambda client: client.call("Revoke", "s", node))
    print_line(f"{node}: revoked, and its imports are ended")
    return ExitStatus.DONE


VERB: Final = Verb("refuse a node from now on, and end its imports", run, (NODE,))
