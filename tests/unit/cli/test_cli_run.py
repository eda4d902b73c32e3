"""run: what reaches the daemons, and how their failures look."""

from __future__ import annotations

import atexit
import time
from pathlib import Path
from typing import Any

import pytest
from tests.unit.cli.running import PROGRAMS, Runner
from usbip_agent.application_side import main as application_side
from usbip_agent.device_side import main as device_side
from usbip_agent.errors import ExitStatus, UnavailableFault
from usbip_agent.names import AGENT, USBIPA
from usbip_agent.service import journal


@pytest.fixture(autouse=True)
def logging_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "set_up", lambda identifier, verbose: None)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The options of the daemons that were to be started."""
    options: list[Any] = []

    def run(given: Any) -> ExitStatus:
        options.append(given)
        return ExitStatus.DONE

    monkeypatch.setattr(device_side, "run", run)
    monkeypatch.setattr(application_side, "run", run)
    return options


def test_the_options_reach_the_daemons(command: Runner, started: list[Any]) -> None:
    for words in (["usbip-agent", "run"], ["usbip-agent", "run", "--config", "/x/a.yaml"],
                  ["usbipa", "run"],
                  ["usbipa", "run", "--config", "/x/u.yaml", "-4", "-6", "-t", "3241", "-d"]):
        assert command(words[0], *words[1:]).status == 0
    assert started == [
        device_side.RunOptions(AGENT.configuration), device_side.RunOptions(Path("/x/a.yaml")),
        application_side.RunOptions(USBIPA.configuration),
        application_side.RunOptions(Path("/x/u.yaml"), ipv4=True, ipv6=True, port=3241)]


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_invalid_configuration_ends_with_78(
        command: Runner, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    file = tmp_path / "bad.yaml"
    file.write_text("version: 1\nrulez: []\n")
    outcome = command(name, "run", "--config", file)
    assert outcome.status == 78 and outcome.is_one_line(name)
    assert f"{file}:2" in outcome.err and f"check --config {file}" in outcome.err


def test_a_name_that_is_held(command: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(options: object) -> ExitStatus:
        raise UnavailableFault("the name is held", hint="is it running already?")

    monkeypatch.setattr(device_side, "run", run)
    outcome = command("usbip-agent", "run")
    assert (outcome.status, outcome.err) == (69, "usbip-agent: the name is held: is it running already?\n")


def test_an_internal_error_of_a_daemon_leaves_its_traceback_in_the_journal(
        command: Runner, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def run(options: object) -> ExitStatus:
        raise ValueError("odd")

    monkeypatch.setattr(device_side, "run", run)
    assert command("usbip-agent", "run").status == 1
    assert "internal error" in caplog.text and "ValueError: odd" in caplog.text


@pytest.mark.parametrize("name, failure, pauses", [
    pytest.param("NOTIFY_SOCKET", UnavailableFault("the name is held"), 1, id="fault"),
    pytest.param("NOTIFY_SOCKET", ValueError("odd"), 1, id="internal"),
    pytest.param("NOTIFY_SOCKET", None, 0, id="no failure"),
    pytest.param("HOME", UnavailableFault("the name is held"), 0, id="by hand"),
])
def test_a_daemon_that_fails_is_not_started_again_at_once(
        command: Runner, monkeypatch: pytest.MonkeyPatch, name: str, failure: Exception | None,
        pauses: int) -> None:
    registered: list[tuple[Any, ...]] = []
    monkeypatch.setattr(atexit, "register", lambda *call: registered.append(call))
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setenv(name, "/nowhere")

    def run(options: object) -> ExitStatus:
        if failure is not None:
            raise failure
        return ExitStatus.DONE

    monkeypatch.setattr(device_side, "run", run)
    command("usbip-agent", "run")
    assert registered == [(time.sleep, 2.0)] * pauses
