"""A host that enrols, and a private bus."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.component.bus.private_bus import PERMISSIVE, PrivateBus, private_bus
from tests.component.identity.loopback_host import LoopbackHost, loopback_host


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[LoopbackHost]:
    async with loopback_host(tmp_path / "state") as running:
        yield running


@pytest.fixture
def bus() -> Iterator[PrivateBus]:
    with private_bus(PERMISSIVE) as running:
        yield running
