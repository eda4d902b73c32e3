"""Enrolment as D-Bus asks for it (``bus.operations.EnrolmentOperations``)."""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Final

from usbip_agent.blocking import in_thread
from usbip_agent.errors import DeadlineFault
from usbip_agent.identity.codes import Moment
from usbip_agent.identity.join_code import encode
from usbip_agent.identity.nodes import KnownNode
from usbip_agent.identity.registrar import Registrar
from usbip_agent.names import Journal
from usbip_agent.policy.values import host_address, system_name
from usbip_agent.service import journal

log = logging.getLogger(__name__)

NAME_DEADLINE: Final = 5.0
"""Seconds that the resolver may take to say what this machine is called."""

FALLBACK_NAME: Final = "host"


class EnrolmentDesk:
    """Does with the registrar what root asks for."""

    def __init__(self, registrar: Registrar, *, port: Callable[[], int],
                 end_imports: Callable[[str], Awaitable[None]]) -> None:
        """*port*: where nodes reach us, unless said otherwise; Fault when nowhere.

        *end_imports*: those of a revoked node.
        """
        self._registrar = registrar
        self._port = port
        self._end_imports = end_imports

    async def enroll(self, node: str, host: str | None, port: int | None) -> str:
        """A join code for *node*. *host*: how it reaches us, None = by this machine's full name."""
        name = host or await full_host_name()
        at = 0 if name.startswith("wss://") else port or self._port()  # a URL has its own
        code = self._registrar.enroll(node, name, at, Moment.now())
        journal.transition(log, logging.INFO, f"issued a join code for node {node} ({code.where})",
                           {Journal.NODE: node, Journal.STATE: "invited"})
        return encode(code)

    def nodes(self) -> tuple[KnownNode, ...]:
        return self._registrar.nodes()

    async def revoke(self, node: str) -> None:
        """Refuses *node* from now on and ends its imports. UnknownNodeFault."""
        self._registrar.revoke(node, Moment.now())
        journal.transition(log, logging.INFO, f"revoked node {node}",
                           {Journal.NODE: node, Journal.STATE: "revoked"})
        await self._end_imports(node)


async def full_host_name() -> str:
    """What this machine calls itself in the network; its bare host name where the resolver does not know."""
    try:
        found = await in_thread("host name", socket.getfqdn, deadline=NAME_DEADLINE)
        if not found.startswith("localhost"):
            return host_address(found)
    except (DeadlineFault, OSError, ValueError):
        pass
    return socket.gethostname()


def entry_name() -> str:
    """The host name up to its first dot, as the name of an entry in nodes' configurations."""
    try:
        return system_name(socket.gethostname().partition(".")[0])
    except ValueError:
        return FALLBACK_NAME
