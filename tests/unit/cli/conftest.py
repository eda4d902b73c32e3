"""No test of this room reaches a real bus."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.cli.running import AGENT_CONFIGURATION, USBIPA_CONFIGURATION, Runner


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Runner:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/no-bus")
    return Runner(capsys)


@pytest.fixture
def agent_yaml(tmp_path: Path) -> Path:
    file = tmp_path / "agent.yaml"
    file.write_text(AGENT_CONFIGURATION)
    return file


@pytest.fixture
def usbipa_yaml(tmp_path: Path) -> Path:
    file = tmp_path / "usbipa.yaml"
    file.write_text(USBIPA_CONFIGURATION)
    return file
