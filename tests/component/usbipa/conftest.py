"""A machine with a fake vhci-hcd, a private bus and a fake systemd, for every test."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.component.bus.private_bus import PERMISSIVE, private_bus
from tests.component.usbipa.daemon import ACCEPT_ALL, FakeSystemd, Machine
from tests.component.usbipa.fake_kernel import FakeKernel


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with private_bus(PERMISSIVE) as bus:
        made = Machine(tmp_path, FakeKernel(tmp_path), FakeSystemd(tmp_path / "notify"), bus, port)
        made.configure(ACCEPT_ALL % port)
        try:
            yield made
        finally:
            made.close()
