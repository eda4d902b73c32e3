"""A machine with USB devices, a fake usbip-host, a private bus and a fake systemd, for every test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.component.agent.daemon import Machine, make_machine


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with make_machine(tmp_path) as made:
        yield made
        assert not made.kernel.crimes
