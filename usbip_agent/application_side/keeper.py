"""All imports, alive: reserved, adopted, ended, left."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator

from usbip_agent.application_side.adoption import Adoption
from usbip_agent.application_side.imports import Import, Offer
from usbip_agent.application_side.life import END_DEADLINE, Life, Surroundings
from usbip_agent.errors import DeadlineFault, Fault
from usbip_agent.report import ImportState
from usbip_agent.service.clock import now_for_people

log = logging.getLogger(__name__)

REPLACE_DEADLINE = 5.0
"""Seconds that a new export waits for the end of the old one of the same device: its node waits meanwhile."""


class Keeper:
    """The imports of this daemon. Iterates over what they are now."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._imports = around.imports
        self._lives: set[Life] = set()

    def __iter__(self) -> Iterator[Import]:
        return iter(self._imports)

    def find(self, offer: Offer) -> Import:
        """The import that an UNEXPORT of *offer* means; RefusedFault without exactly one."""
        return self._imports.to_be_ended_by(offer)

    async def reserve(self, offer: Offer, rule: str) -> Life:
        """A port for *offer*, after ending what it replaces. NoFreePortFault, ModuleFault."""
        for old in self._imports.replaced_by(offer):
            try:
                await self.end(old.port, f"exported again by {offer.peer}", deadline=REPLACE_DEADLINE)
            except Fault as fault:
                log.info("%s", fault)  # gone meanwhile, or stuck: then another port will do
        entry = self._imports.reserve(offer, rule, self._around.ports.rows(), now_for_people())
        return self._life(entry.port)

    def adopt(self, adoption: Adoption) -> None:
        """Goes on with an import of the process before."""
        record, row = adoption.record, adoption.row
        local_bus_id = row.local_bus_id or self._around.ports.local_bus_id(row.port, row.hub)
        self._imports.adopt(Import(
            row.port, row.hub, record.offer, record.rule, ImportState.ATTACHING, record.since, local_bus_id))
        link = socket.socket(fileno=adoption.descriptor) if adoption.descriptor is not None else None
        life = self._life(row.port)
        if adoption.is_broken:
            life.end("the kernel has given the port up")
        life.adopt(record.descriptor, link)

    async def end(self, port: int, reason: str, *, deadline: float = END_DEADLINE) -> None:
        """Ends the import on *port* and returns when the port is free.

        UnknownDeviceFault when it is none of ours, DeadlineFault when the kernel does not let go.
        """
        self._imports.at(port)
        life = self._at(port)
        life.end(reason)
        await life.wait_gone(deadline)

    async def end_all(self, reason: str, *, which: Callable[[Import], bool] = lambda entry: True) -> None:
        """Ends every import of *which*, all at once. What the kernel does not free in time is logged."""
        ending = [self._at(entry.port) for entry in self._imports if which(entry)]
        for life in ending:
            life.end(reason)
        for outcome in await asyncio.gather(*(life.wait_gone() for life in ending), return_exceptions=True):
            if isinstance(outcome, DeadlineFault):
                log.error("%s", outcome)

    async def leave(self, deadline: float) -> None:
        """Leaves all imports to the next process, attached; see ``Life.leave``."""
        await asyncio.gather(*(life.leave(deadline) for life in self._lives))

    def appearance_changed(self, local_bus_id: str) -> None:
        """udev has news of the import with *local_bus_id*."""
        for entry in self._imports:
            if entry.local_bus_id == local_bus_id:
                self._at(entry.port).look()

    def _life(self, port: int) -> Life:
        life = Life(self._around, port, self._lives.discard)
        self._lives.add(life)
        return life

    def _at(self, port: int) -> Life:
        return next(life for life in self._lives if life.port == port)
