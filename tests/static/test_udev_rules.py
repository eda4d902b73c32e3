"""The udev rules: sound, and doing no more than tagging, waking, and opening vhci-hcd to usbipa."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.static.tree import ROOT, run, shown
from usbip_agent.names import AGENT, UDEV_TAG_USBIPA

RULES = sorted((ROOT / "udev").glob("*.rules"))
TERM = re.compile(r'(?P<key>[A-Z]+(\{[A-Za-z_/]+\})?)\s*(?P<operator>==|!=|\+=|=)\s*"(?P<value>[^"]*)"')


def terms(path: Path) -> list[list[tuple[str, str, str]]]:
    """The rules of a file, each as (key, operator, value)s. Fails on what is not understood."""
    rules = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            found = list(TERM.finditer(line))
            assert TERM.sub("", line).replace(",", "").strip() == "", line
            rules.append([(term["key"], term["operator"], term["value"]) for term in found])
    return rules


@pytest.mark.parametrize("path", RULES, ids=shown)
def test_udev_accepts_the_rules(path: Path) -> None:
    said = run("udevadm", "verify", "--resolve-names=never", path)
    if "Unknown command verb" in said.stdout or "command not found" in said.stdout:
        pytest.skip("udevadm verify comes with systemd 254")
    assert said.returncode == 0, said.stdout


@pytest.mark.parametrize("path", RULES, ids=shown)
def test_rules_do_little_and_jump_to_labels_that_exist(path: Path) -> None:
    rules = [term for rule in terms(path) for term in rule if term[0] not in ("RUN", "TEST")]
    keys = {key for key, _, _ in rules}
    assert keys <= {"ACTION", "SUBSYSTEM", "KERNEL", "DEVPATH", "ENV{DEVTYPE}", "ATTR{bDeviceClass}", "TAG",
                    "ATTR{power/control}", "ENV{SYSTEMD_WANTS}", "GOTO", "LABEL"}
    assert {value for key, _, value in rules if key == "GOTO"} == {
        value for key, _, value in rules if key == "LABEL"}


def test_names_are_those_of_the_daemons() -> None:
    rules = terms(ROOT / "udev/60-usbip-agent.rules")
    wants = [term for rule in rules for term in rule if term[0] == "ENV{SYSTEMD_WANTS}"]
    assert set(wants) == {("ENV{SYSTEMD_WANTS}", "+=", AGENT.unit)}
    tags = [term for rule in terms(ROOT / "udev/60-usbipa.rules") for term in rule if term[0] == "TAG"]
    assert tags == [("TAG", "+=", UDEV_TAG_USBIPA)]


def test_all_that_is_run_gives_two_files_to_usbipa() -> None:
    found = [rule for path in RULES for rule in terms(path) if any(key == "RUN" for key, _, _ in rule)]
    assert found == [[
        ("ACTION", "!=", "remove"), ("SUBSYSTEM", "==", "platform"), ("KERNEL", "==", "vhci_hcd.0"),
        ("TEST", "==", "attach"), ("RUN", "+=", "/bin/chgrp usbipa %S%p/attach %S%p/detach"),
        ("RUN", "+=", "/bin/chmod 0220 %S%p/attach %S%p/detach")]]


def test_only_a_plug_wakes_the_agent() -> None:
    """systemd starts what a device wants at each of its events, also an agent that was stopped meanwhile."""
    for rule in terms(ROOT / "udev/60-usbip-agent.rules"):
        if any(key == "ENV{SYSTEMD_WANTS}" for key, _, _ in rule):
            assert ("ACTION", "==", "add") in rule


def test_imported_devices_are_never_put_to_sleep() -> None:
    """After udev's own rules for sleep, whose file name comes first."""
    path = ROOT / "udev/60-usbipa.rules"
    assert path.name > "60-autosuspend.rules"
    [rule] = [rule for rule in terms(path) if ("ATTR{power/control}", "=", "on") in rule]
    assert ("DEVPATH", "==", "*/vhci_hcd.*/usb*/*") in rule
