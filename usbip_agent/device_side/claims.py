"""Keeps udev's rules in step with the policy, so that a device is left alone from its first event on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from pathlib import Path

from usbip_agent.blocking import LOAD_DEADLINE, in_thread
from usbip_agent.device import Enumeration, Kind
from usbip_agent.device_side.claim_rules import UDEV_CLAIMED, claim_rules
from usbip_agent.device_side.export import Export
from usbip_agent.errors import Fault
from usbip_agent.kernel.udev_rules import UdevRules, mend_marks
from usbip_agent.policy.agent import AgentPolicy
from usbip_agent.report import ExportState

log = logging.getLogger(__name__)

_AT_REST = frozenset({ExportState.IGNORED, ExportState.WAITING, ExportState.HELD, ExportState.FAILED})
"""The states in which a mark is mended. Taking a device, and giving it back, makes events that do it as well.
What is in use (BLOCKED) stays as its users know it: a file manager that is to ignore it cannot eject it."""


_Wanted = tuple[AgentPolicy, frozenset[str]] | None
"""A policy and the busids that are held; None = mark nothing."""


class Claims:
    """What udev was told last, and what it is to be told next. Only the latest counts."""

    def __init__(self, rules: UdevRules) -> None:
        self._rules = rules
        self._wanted: _Wanted = None
        self._composed: _Wanted = None
        self._exports: tuple[Export, ...] = ()
        self._examined: dict[Enumeration, bool] = {}
        """The mark that each should have had when it was examined."""
        self._suspects: dict[Path, bool] = {}
        self._task: asyncio.Task[None] | None = None

    def follow(self, policy: AgentPolicy, held: frozenset[str]) -> None:
        """Marks what *policy* connects, but for the busids that are *held*."""
        if self._wanted is not None and self._wanted[0] is policy and self._wanted[1] == held:
            return
        self._wanted = policy, held
        self._work()

    async def claim(self, policy: AgentPolicy, held: frozenset[str]) -> None:
        """As ``follow``; returns when udev knows, so that what comes next is handled by it."""
        self.follow(policy, held)
        await self.settled()

    def examine(self, exports: tuple[Export, ...]) -> None:
        """Mends the marks of devices that udev saw before the rules that are now.

        Once for each enumeration and mark under the same rules: there are devices that these cannot tell.
        """
        self._exports = exports
        self._suspect()
        if self._suspects:
            self._work()

    async def withdraw(self, exports: Iterable[Export]) -> None:
        """Marks nothing any more: the devices are local ones again."""
        self._wanted, self._exports = None, ()
        self._suspects = {Path(export.device.sys_path): False for export in exports if _is_local(export)}
        self._work()
        await self.settled()

    async def settled(self) -> None:
        """Returns when udev knows the latest rules, or when that has failed."""
        if self._task is not None:
            await asyncio.wait({self._task})

    def _suspect(self) -> None:
        present = set()
        for export in self._exports:
            enumeration = export.device.enumeration
            present.add(enumeration)
            claimed = bool(export.decision.hosts) and not export.held
            if export.state in _AT_REST and _is_local(export) and self._examined.get(enumeration) != claimed:
                self._examined[enumeration] = claimed
                self._suspects[Path(export.device.sys_path)] = claimed
        for gone in self._examined.keys() - present:
            del self._examined[gone]

    def _work(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._catch_up())

    async def _catch_up(self) -> None:
        while self._composed is not self._wanted or self._suspects:
            try:
                if self._composed is not self._wanted:
                    await self._tell_udev()
                else:
                    suspects, self._suspects = self._suspects, {}
                    await mend_marks(UDEV_CLAIMED, suspects)
            except Fault as fault:
                log.warning("other programs are not told to leave exported devices alone: %s", fault)
                self._suspects.clear()

    async def _tell_udev(self) -> None:
        self._composed = wanted = self._wanted
        # In a thread, as a policy of 10 MB takes a while.
        text = await in_thread(
            "udev rules", lambda: claim_rules(*wanted) if wanted else "", deadline=LOAD_DEADLINE)
        if await self._rules.put(text):
            self._examined.clear()
            self._suspect()


def _is_local(export: Export) -> bool:
    """Whether a driver of this machine has the device."""
    return export.device.kind is Kind.USB and not export.claimed
