"""``usbipa nodes``: who may connect, and when and from where each was last seen."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from usbip_agent.cli.options import JSON, Verb
from usbip_agent.cli.output import ago, print_json, print_line, print_table
from usbip_agent.errors import ExitStatus
from usbip_agent.names import Service

if TYPE_CHECKING:
    from usbip_agent.bus.client import Client

_KEYS: Final = {"name": "Name", "fingerprint": "Fingerprint", "enrolled": "Enrolled",
                "last_seen": "LastSeen", "last_peer": "LastPeer"}
"""Key in JSON → key in the answer to ``ListNodes``."""


def run(service: Service, arguments: Namespace) -> int:
    from usbip_agent.cli.daemon import ask

    nodes = ask(service, list_nodes)
    if arguments.json:
        print_json({"nodes": nodes})
    elif nodes:
        print_table(("NODE", "ENROLLED", "LAST SEEN", "FROM", "FINGERPRINT"), map(_row, nodes))
    else:
        print_line(f"no nodes are enrolled: {service.command} enroll NODE")
    return ExitStatus.DONE


async def list_nodes(client: Client) -> list[dict[str, Any]]:
    """The enrolled nodes, as ``--json`` shows them."""
    answer = await client.call("ListNodes")
    return [{key: node.get(name, 0 if name in ("Enrolled", "LastSeen") else "")
             for key, name in _KEYS.items()} for node in answer]


async def node_names(client: Client) -> set[str]:
    return {node["name"] for node in await list_nodes(client)}


def _row(node: dict[str, Any]) -> tuple[Sequence[str], Sequence[str]]:
    cells = (node["name"], ago(node["enrolled"]), ago(node["last_seen"]), node["last_peer"] or "-",
             node["fingerprint"])
    return cells, ()


VERB: Final = Verb("show who may connect, and when and from where each was last seen", run, (JSON,))
