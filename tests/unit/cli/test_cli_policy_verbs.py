"""check, explain and list: what the configuration says, without a daemon."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.cli.running import PROGRAMS, Runner
from usbip_agent.cli import local_devices
from usbip_agent.cli.local_devices import LocalDevice
from usbip_agent.cli.policies import configured
from usbip_agent.device import Device, Kind, Speed

STICK = Device(
    Kind.USB, "1-1.4", 1, 7, Speed.FULL, "10c4", "ea60", serial="01A7", manufacturer="Silicon Labs",
    model="CP2102\x1b[2J", path="pci-0000:00:14.0-usb-0:1.4", interface_classes=frozenset({0xFF}))
HUB = Device(Kind.USB, "1-1", 1, 2, Speed.HIGH, "1d6b", "0002", device_class=9)
GADGET = Device(Kind.VUDC, "usbip-vudc.0", 0, 0, Speed.HIGH, "1d6b", "0104", model="g1")


@pytest.fixture
def plugged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stick, a hub and a gadget are there."""
    monkeypatch.setattr(local_devices, "all_local_devices", lambda: [
        LocalDevice(HUB, ("hub",)), LocalDevice(STICK, ("cp210x",)), LocalDevice(GADGET, ())])
    monkeypatch.setattr(local_devices, "local_device", lambda name: next(
        (each for each in (HUB, STICK, GADGET) if each.bus_id == name), None))


def test_check_of_a_valid_configuration(command: Runner, agent_yaml: Path, usbipa_yaml: Path) -> None:
    assert command("usbip-agent", "check", agent_yaml).out == "configuration is valid: 2 hosts, 2 rules\n"
    assert command("usbipa", "check", usbipa_yaml).out == "configuration is valid: 1 listener, 2 rules\n"
    assert command("usbip-agent", "check", "--json", agent_yaml).json == {
        "version": 1, "valid": True, "problems": [], "hosts": 2, "rules": 2}
    assert command("usbipa", "check", "--json", "--config", usbipa_yaml).json["listeners"] == 1


@pytest.mark.parametrize("name", ["usbip-agent", "usbipa"])
def test_check_shows_every_error_with_file_and_line(command: Runner, name: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("version: 1\nrulez: []\nrules:\n  - match: {vendro: 10c4}\n")
    outcome = command(name, "check", file)
    assert outcome.status == 78
    assert [line.partition(": ")[0] for line in outcome.out.splitlines()][:2] == [f"{file}:2", f"{file}:4"]
    assert outcome.is_one_line(name)
    said = command(name, "check", "--json", file)
    assert said.status == 78 and said.json["valid"] is False
    assert [set(problem) for problem in said.json["problems"]] == [
        {"file", "line", "message"}] * len(outcome.out.splitlines())


@pytest.mark.parametrize("content", [None, b"", b"\x00\xff\xfe", b"[" * 100000, b"version: 2\n", b"a: *b\n"])
def test_check_of_what_is_no_configuration(command: Runner, tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "bad.yaml"
    if content is not None:
        file.write_bytes(content)
    outcome = command("usbip-agent", "check", file)
    assert outcome.status == 78 and outcome.out.startswith(str(file))
    assert outcome.is_one_line("usbip-agent")


def test_check_with_drop_ins(command: Runner, agent_yaml: Path) -> None:
    (agent_yaml.parent / "agent.d").mkdir()
    bad = agent_yaml.parent / "agent.d/bad.yaml"
    bad.write_text("version: 1\nhosts: {lab: {address: 192.0.2.9}}\n")
    outcome = command("usbip-agent", "check", "--config", agent_yaml)
    assert outcome.status == 78 and outcome.out.startswith(f"{bad}:2: ")


def test_explain_a_device_that_is_not_there(command: Runner, agent_yaml: Path) -> None:
    words = ["explain", "--config", str(agent_yaml), "--vendor", "10C4", "--product", "ea60"]
    outcome = command("usbip-agent", *words, "--serial", "01A7")
    assert outcome.status == 0
    assert 'connect to lab, then backup (by "zigbee stick")' in outcome.out
    assert "nothing that types: no, " in outcome.out
    said = command("usbip-agent", *words, "--serial", "99", "--class", "hid", "--json").json
    assert (said["rule"], said["verdict"], said["hosts"]) == ("nothing that types", "ignore", [])
    said = command("usbip-agent", *words, "--serial", "99", "--json").json
    assert set(said) == {
        "version", "rule", "verdict", "hosts", "steps", "bus_id", "vendor", "product", "forbidden"}
    assert [step["matched"] for step in said["steps"]] == [False, False, True]
    assert set(said["steps"][0]) == {"rule", "location", "matched", "why"}


def test_explain_a_device_that_is_there(command: Runner, agent_yaml: Path, plugged: None) -> None:
    outcome = command("usbip-agent", "explain", "--config", agent_yaml, "1-1.4")
    assert outcome.status == 0 and "connect to lab, then backup" in outcome.out and "\x1b" not in outcome.out
    hub = command("usbip-agent", "explain", "--config", agent_yaml, "1-1")
    assert hub.out.splitlines()[-1] == "but a hub is never exported"
    gadget = command("usbip-agent", "explain", "--config", agent_yaml, "usbip-vudc.0", "--json")
    assert gadget.json["hosts"] == []
    unknown = command("usbip-agent", "explain", "--config", agent_yaml, "7-7")
    assert unknown.status == 1 and unknown.is_one_line("usbip-agent") and "7-7" in unknown.err


def test_explain_with_an_invalid_configuration(command: Runner, tmp_path: Path) -> None:
    outcome = command("usbip-agent", "explain", "--config", tmp_path / "none.yaml",
                      "--vendor", "10c4", "--product", "ea60")
    assert outcome.status == 78 and outcome.is_one_line("usbip-agent") and outcome.out == ""


NOBODY = 65534


@contextmanager
def kept_from_us(directory: Path) -> Iterator[None]:
    """Nobody may look into *directory*, and root becomes nobody."""
    user = os.geteuid()
    directory.chmod(0)
    os.seteuid(user or NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)
        directory.chmod(0o700)


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_this_user_may_not_read_is_not_invalid(
        command: Runner, name: str, tmp_path: Path, plugged: None) -> None:
    file = tmp_path / "etc/some.yaml"
    file.parent.mkdir()
    file.write_text("version: 1\n")
    program = replace(PROGRAMS[name], service=configured(PROGRAMS[name].service, file))
    described = ["explain", "--vendor", "10c4", "--product", "ea60"]
    asking = [["check"], ["check", str(file)], ["check", "--json"], described]
    assert [command.run(program, *words).status for words in asking] == [0, 0, 0, 0]
    with kept_from_us(file.parent):
        for words in asking:
            refused = command.run(program, *words)
            assert (refused.status, refused.out) == (1, "")
            assert refused.err == f"{name}: this user may not read {file}: sudo {name} …\n"
        checks = {check["name"]: check for check in command.run(program, "doctor", "--json").json["checks"]}
        by_daemon = command.run(program, "explain", "1-1.4")
    assert (checks["configuration"]["outcome"], checks["configuration"]["what"]) == (
        "warning", f"this user may not read {file}")
    assert {"module", "service", "user", "clock", "versions"} <= set(checks)
    assert name == "usbipa" or (by_daemon.status == 69 and "no system bus" in by_daemon.err)


def test_a_drop_in_that_this_user_may_not_read(command: Runner, agent_yaml: Path) -> None:
    """As those are that join writes."""
    drop_ins = agent_yaml.parent / "agent.d"
    drop_ins.mkdir()
    assert command("usbip-agent", "check", "--config", agent_yaml).status == 0
    with kept_from_us(drop_ins):
        refused = command("usbip-agent", "check", "--config", agent_yaml)
    assert refused.status == 1 and f"this user may not read {agent_yaml.parent}/agent" in refused.err


def test_explain_an_export(command: Runner, usbipa_yaml: Path) -> None:
    words = ["explain", "--config", str(usbipa_yaml), "--vendor", "10c4", "--product", "ea60"]
    outcome = command("usbipa", *words, "--node", "pi-kitchen", "--address", "10.1.1.1")
    assert outcome.status == 0 and 'accept (by "kitchen")' in outcome.out
    said = command("usbipa", *words, "--address", "10.9.0.7", "--json").json
    assert (said["rule"], said["verdict"]) == ("cellar", "accept")
    assert said["steps"][0]["why"] == "the connection is plain, its node is not authenticated"
    assert command("usbipa", *words, "--json").json["verdict"] == "reject"


def test_list(command: Runner, agent_yaml: Path, plugged: None) -> None:
    outcome = command("usbip-agent", "list", "--config", agent_yaml)
    lines = outcome.out.splitlines()
    assert outcome.status == 0 and lines[0] == " - busid 1-1.4 (10c4:ea60)"
    assert lines[1] == "   Silicon Labs : CP2102\\x1b[2J (10c4:ea60)"
    assert "   policy: connect to lab, then backup (zigbee stick, agent.yaml:9)" in lines
    assert "1d6b:0002" not in outcome.out and " - busid usbip-vudc.0 (1d6b:0104)" in lines
    said = command("usbip-agent", "list", "--config", agent_yaml, "--json").json
    assert set(said) == {"version", "devices"} and said["version"] == 1
    assert set(said["devices"][0]) == {
        "bus_id", "vendor", "product", "serial", "manufacturer", "model", "classes", "path", "speed", "kind",
        "drivers", "verdict", "rule", "location", "hosts"}
    assert (said["devices"][0]["drivers"], said["devices"][0]["hosts"]) == (["cp210x"], ["lab", "backup"])


def test_list_without_a_configuration_still_lists(command: Runner, tmp_path: Path, plugged: None) -> None:
    outcome = command("usbip-agent", "list", "--config", tmp_path / "none.yaml")
    assert outcome.status == 78 and " - busid 1-1.4" in outcome.out and "policy" not in outcome.out
    assert outcome.is_one_line("usbip-agent")


def test_list_on_this_machine(command: Runner, agent_yaml: Path) -> None:
    assert command("usbip-agent", "list", "--config", agent_yaml).status == 0
