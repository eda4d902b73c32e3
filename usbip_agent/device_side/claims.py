"""Keeps udev's rules in step with the policy, so that a device is left alone from its first event on."""

from __future__ import annotations

import asyncio
import logging

from usbip_agent.device_side.claim_rules import claim_rules
from usbip_agent.errors import Fault
from usbip_agent.kernel.udev_rules import UdevRules
from usbip_agent.policy.agent import AgentPolicy

log = logging.getLogger(__name__)


class Claims:
    """What udev was told last, and what it is to be told next. Only the latest counts."""

    def __init__(self, rules: UdevRules) -> None:
        self._rules = rules
        self._told: tuple[AgentPolicy, frozenset[str]] | None = None
        self._wanted = ""
        self._task: asyncio.Task[None] | None = None

    def follow(self, policy: AgentPolicy, held: frozenset[str]) -> None:
        """Marks what *policy* connects, but for the busids that are *held*."""
        if self._told is not None and self._told[0] is policy and self._told[1] == held:
            return
        self._told = policy, held
        self._put(claim_rules(policy, held))

    async def claim(self, policy: AgentPolicy, held: frozenset[str]) -> None:
        """As ``follow``; returns when udev knows, so that what comes next is handled by it."""
        self.follow(policy, held)
        await self.settled()

    async def withdraw(self) -> None:
        """Marks nothing any more: the devices are local ones again."""
        self._told = None
        self._put("")
        await self.settled()

    async def settled(self) -> None:
        """Returns when udev knows the latest rules, or when that has failed."""
        if self._task is not None:
            await asyncio.wait({self._task})

    def _put(self, text: str) -> None:
        self._wanted = text
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._write())

    async def _write(self) -> None:
        written = None
        while written != self._wanted:
            written = self._wanted
            try:
                await self._rules.put(written)
            except Fault as fault:
                log.warning("other programs are not told to leave exported devices alone: %s", fault)
