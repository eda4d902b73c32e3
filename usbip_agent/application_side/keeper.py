"""All imports, alive: reserved, adopted, ended, left."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator, Sequence

from usbip_agent.application_side.adoption import Adoption
from usbip_agent.application_side.imports import Import, Offer
from usbip_agent.application_side.life import END_DEADLINE, Life, Surroundings
from usbip_agent.errors import DeadlineFault
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
        self._given_up: set[Life] = set()
        """Those whose port was waited for in vain by who is to replace them."""

    def __iter__(self) -> Iterator[Import]:
        return iter(self._imports)

    def find(self, offer: Offer) -> Import:
        """The import that an UNEXPORT of *offer* means; RefusedFault without exactly one."""
        return self._imports.to_be_ended_by(offer)

    async def make_way(self, offer: Offer) -> bool:
        """Ends what *offer* replaces. True when that took time, in which everything may have become another.

        What the kernel does not let go of in time is waited for no more: another port will do.
        """
        old = [self._at(each.port) for each in self._imports.replaced_by(offer)]
        ending = [life for life in old if life not in self._given_up]
        for life in ending:
            life.end(f"exported again by {offer.peer}")
        for life, fault in zip(ending, await _wait_gone(ending, REPLACE_DEADLINE), strict=True):
            if fault is not None:
                log.info("%s", fault)
                self._given_up.add(life)
        self._given_up &= self._lives
        return bool(ending)

    def reserve(self, offer: Offer, rule: str) -> Life:
        """A port for *offer*, at once. NoFreePortFault, ModuleFault."""
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

    async def end(self, port: int, reason: str) -> None:
        """Ends the import on *port* and returns when the port is free.

        UnknownDeviceFault when it is none of ours, DeadlineFault when the kernel does not let go.
        """
        self._imports.at(port)
        life = self._at(port)
        life.end(reason)
        await life.wait_gone()

    async def end_all(self, reason: str, *, which: Callable[[Import], bool] = lambda entry: True) -> None:
        """Ends every import of *which*, all at once. What the kernel does not free in time is logged."""
        ending = [self._at(entry.port) for entry in self._imports if which(entry)]
        for life in ending:
            life.end(reason)
        for fault in await _wait_gone(ending, END_DEADLINE):
            if fault is not None:
                log.error("%s", fault)

    async def leave(self, deadline: float) -> None:
        """Leaves all imports to the next process, attached; see ``Life.leave``."""
        await asyncio.gather(*(life.leave(deadline) for life in self._lives))

    def appearance_changed(self, local_bus_id: str) -> None:
        """udev has news of the import with *local_bus_id*."""
        for entry in self._imports:
            if entry.local_bus_id == local_bus_id:
                self._at(entry.port).look()

    def _life(self, port: int) -> Life:
        life = Life(self._around, port, self._forget)
        self._lives.add(life)
        return life

    def _forget(self, life: Life) -> None:
        self._lives.discard(life)
        self._given_up.discard(life)

    def _at(self, port: int) -> Life:
        return next(life for life in self._lives if life.port == port)


async def _wait_gone(lives: Sequence[Life], deadline: float) -> list[DeadlineFault | None]:
    """Waits for all *lives* at once; for each, the fault when its port is not free in time."""
    async def wait(life: Life) -> DeadlineFault | None:
        try:
            await life.wait_gone(deadline)
        except DeadlineFault as fault:
            return fault
        return None

    return await asyncio.gather(*map(wait, lives))
