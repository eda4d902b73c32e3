"""A machine with USB devices, a fake usbip-host, a private bus and a fake systemd, for every test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.component.agent.daemon import STICKS, Machine
from tests.component.agent.fake_host import FakeHost
from tests.component.agent.fake_stub import FakeStub
from tests.component.agent.fake_systemd import FakeSystemd
from tests.component.agent.tree import Tree
from tests.component.bus.private_bus import PERMISSIVE, private_bus


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    (tmp_path / "rules.d").mkdir()
    with private_bus(PERMISSIVE) as bus:
        tree = Tree()
        made = Machine(tmp_path, tree, FakeStub(tree, tmp_path / "kernel"),
                       FakeSystemd(tmp_path / "notify"), bus, FakeHost())
        made.configure(STICKS % made.host.port)
        try:
            yield made
            assert not made.kernel.crimes
        finally:
            made.close()
