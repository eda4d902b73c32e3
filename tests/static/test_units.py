"""The systemd units: valid, hardened, and never giving up."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.static.tree import ROOT, run
from usbip_agent.names import AGENT, USBIPA, Service

UNITS = ROOT / "systemd"
EXPOSURE = {AGENT.unit: 2.5, USBIPA.unit: 1.5}
"""The worst score that ``systemd-analyze security`` may give (0 is best)."""

SERVICES = pytest.mark.parametrize("service", [AGENT, USBIPA], ids=[AGENT.command, USBIPA.command])


def unit_of(service: Service) -> Path:
    return UNITS / service.unit


def commands(unit: Path, settings: str = r"Exec\w+") -> list[str]:
    """What a unit runs, in order, of the settings that match."""
    lines = unit.read_text(encoding="utf-8").splitlines()
    return [line.partition("=")[2] for line in lines if re.match(f"({settings})=", line)]


def settings_of(service: Service) -> dict[str, str]:
    """The [Service] section; of a setting that stands more than once, the last."""
    section = unit_of(service).read_text(encoding="utf-8").split("[Service]\n")[1].split("\n[")[0]
    lines = [line for line in section.splitlines() if line and not line.startswith("#")]
    return {key: value for key, _, value in (line.partition("=") for line in lines)}


@SERVICES
def test_unit_is_valid(service: Service) -> None:
    said = run("systemd-analyze", "verify", "--man=no", unit_of(service)).stdout
    complaints = [
        line for line in said.splitlines()
        # The command is there only once the package is installed; what else is wrong concerns other units.
        if line.startswith(service.unit) or str(unit_of(service)) in line
        if f"/usr/bin/{service.command} is not executable" not in line]
    assert not complaints


@SERVICES
def test_unit_is_hardened(service: Service) -> None:
    said = run("systemd-analyze", "security", "--offline=yes", "--no-pager", unit_of(service)).stdout
    score = re.search(r"Overall exposure level for \S+ (\d+\.\d)", said)
    assert score, said
    assert float(score[1]) <= EXPOSURE[service.unit], said


@SERVICES
def test_unit_does_what_is_promised(service: Service) -> None:
    settings = settings_of(service)
    expected = {
        "Type": "notify", "Restart": "on-failure", "RestartPreventExitStatus": "78", "RestartSec": "100ms",
        "ExecStart": f"/usr/bin/{service.command} run",
        "RuntimeDirectory": service.runtime_directory.name, "StateDirectory": service.state_directory.name,
    }
    assert {key: settings.get(key) for key in expected} == expected
    assert "WatchdogSec" in settings


@SERVICES
def test_unit_keeps_over_a_restart_what_links_need(service: Service) -> None:
    """The store takes a link of each of 240 imports, and listening sockets; the records stay beside it."""
    settings = settings_of(service)
    assert int(settings["FileDescriptorStoreMax"]) >= 256
    # Not "restart": after an end by SIGKILL that would forget them.
    assert settings["RuntimeDirectoryPreserve"] == "yes"
    assert settings["NotifyAccess"] == "main"


@SERVICES
def test_unit_has_no_capability(service: Service) -> None:
    assert settings_of(service)["CapabilityBoundingSet"] == ""
    assert "AmbientCapabilities" not in settings_of(service)


def test_who_listens_is_not_root() -> None:
    user = settings_of(USBIPA)["User"]
    accounts = (ROOT / "systemd/sysusers.d/usbipa.conf").read_text(encoding="utf-8").splitlines()
    assert [line.split()[:2] for line in accounts if not line.startswith("#")] == [["u", user]]
    policy = (ROOT / f"dbus/{USBIPA.bus_name}.conf").read_text(encoding="utf-8")
    assert f'<policy user="{user}">' in policy


def test_what_needs_root_is_said_to_the_letter() -> None:
    """Two files of vhci-hcd change hands before usbipa starts, or when the module comes; through no shell."""
    directory = "/sys/devices/platform/vhci_hcd.0"
    assert commands(UNITS / "usbipa-modules.service") == [
        "-/sbin/modprobe -abq vhci_hcd tls",
        f"-/bin/chgrp --silent usbipa {directory}/attach {directory}/detach",
        f"-/bin/chmod --silent 0220 {directory}/attach {directory}/detach"]
    assert commands(UNITS / "usbip-agent-modules.service") == ["-/sbin/modprobe -abq usbip_host tls"]


@SERVICES
def test_a_killed_daemon_waits_for_no_other_program(service: Service) -> None:
    """Modules are looked after when one is missing; nothing stands before the daemon itself."""
    own = commands(unit_of(service), "Exec(Condition|StartPre|Start)")
    assert own == [f"/usr/bin/{service.command} run"]
    modules = (UNITS / f"{service.command}-modules.service").read_text(encoding="utf-8")
    conditions = re.findall("^Condition.*", modules, re.MULTILINE)
    assert conditions and all(each.startswith("ConditionPathExists=|!") for each in conditions)


@SERVICES
def test_unit_never_gives_up(service: Service) -> None:
    for unit in (unit_of(service), UNITS / f"{service.command}-modules.service"):
        assert "StartLimitIntervalSec=0" in unit.read_text(encoding="utf-8").split("[Service]")[0]
