"""What usbipa does when it is called over the bus: the part of the imports, and that of the nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from usbip_agent.application_side.usbipa import Usbipa
from usbip_agent.bus.operations import EnrolledNode
from usbip_agent.identity.desk import EnrolmentDesk


@dataclass(frozen=True, slots=True)
class BusOperations:
    """``bus.operations.UsbipaOperations`` and ``EnrolmentOperations``."""

    usbipa: Usbipa
    desk: EnrolmentDesk

    async def detach(self, port: int) -> None:
        await self.usbipa.detach(port)

    async def reload(self) -> None:
        await self.usbipa.reload()

    async def enroll(self, node: str, host: str | None, port: int | None) -> str:
        return await self.desk.enroll(node, host, port)

    def nodes(self) -> Sequence[EnrolledNode]:
        return self.desk.nodes()

    async def revoke(self, node: str) -> None:
        await self.desk.revoke(node)
