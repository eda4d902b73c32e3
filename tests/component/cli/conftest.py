"""A private bus for every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.component.bus.private_bus import PERMISSIVE, PrivateBus, private_bus


@pytest.fixture
def bus() -> Iterator[PrivateBus]:
    with private_bus(PERMISSIVE) as running:
        yield running
