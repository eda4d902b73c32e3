"""The udev rules mark nothing that is not connected, and nothing in a policy breaks out of them."""

from __future__ import annotations

import operator
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.device_side.udev import Seen, properties_after
from usbip_agent.device import CLASS_NAMES, Device, Kind, Speed
from usbip_agent.device_side.claim_rules import UDEV_CLAIMED, claim_rules
from usbip_agent.policy.agent import AgentPolicy, ConnectRule, Host, Match

LAB = (Host("lab", "10.9.0.2"),)
MEGABITS = {
    Speed.LOW: "1.5", Speed.FULL: "12", Speed.HIGH: "480", Speed.SUPER: "5000", Speed.SUPER_PLUS: "20000"}

Keys = Mapping[str, str | Sequence[str]]


def rule(name: str, conditions: Keys, exceptions: Keys | None = None, *, connect: bool = True) -> ConnectRule:
    return ConnectRule(
        name=name, match=Match.of(conditions, exceptions), hosts=LAB if connect else (), ignore=not connect)


def policy(*rules: ConnectRule, default: tuple[Host, ...] = ()) -> AgentPolicy:
    return AgentPolicy(node="n", hosts=LAB, rules=rules, default_hosts=default)


def device(serial: str = "", manufacturer: str = "", model: str = "", **changes: Any) -> tuple[Device, Seen]:
    """A device from raw texts, as we see it and as udev does."""
    values: dict[str, Any] = {
        "bus_id": "1-1.4", "vendor": "10c4", "product": "ea60", "speed": Speed.FULL,
        "path": "pci-0-usb-0:1.4", "interface_classes": frozenset({0xFF}), "device_class": 0} | changes
    seen_by_us = Device(
        kind=Kind.USB, bus_number=1, device_number=7, serial=serial.strip(),
        manufacturer=manufacturer.strip(), model=model.strip(), **values)
    texts = {"serial": serial, "manufacturer": manufacturer, "product": model}
    attributes = {name: text.encode().decode("latin-1") for name, text in texts.items() if text}
    attributes |= {
        "idVendor": seen_by_us.vendor, "idProduct": seen_by_us.product, "speed": MEGABITS[seen_by_us.speed],
        "bDeviceClass": f"{seen_by_us.device_class:02x}"}
    interfaces = "".join(f":{code:02x}0650" for code in sorted(seen_by_us.interface_classes)) + ":"
    return seen_by_us, Seen(
        seen_by_us.bus_id, attributes,
        {"DEVTYPE": "usb_device", "ID_USB_INTERFACES": interfaces, "ID_PATH": seen_by_us.path},
        f"/devices/pci0000:00/0000:00:14.0/usb1/{seen_by_us.bus_id}")


def is_marked(rules: str, seen: Seen) -> bool:
    return properties_after(rules, seen).get(UDEV_CLAIMED) == "1"


@pytest.mark.parametrize(("conditions", "exceptions", "marked"), [
    ({"vendor": "10c4"}, None, True),
    ({"vendor": ["0403", "10C4"], "product": "ea60"}, None, True),
    ({"vendor": "0403"}, None, False),
    ({"serial": "01A7"}, None, True),
    ({"serial": "01A*"}, None, True),
    ({"serial": "01[0-9A-F]?"}, None, True),
    ({"serial": ""}, None, False),
    ({"manufacturer": ""}, None, True),
    ({"manufacturer": ["", "x"], "serial": ["", "*7"]}, None, True),
    ({"model": "CP2102 USB to UART"}, None, True),
    ({"class": "vendor"}, None, True),
    ({"class": ["hid", "00"]}, None, True),
    ({"class": "hid"}, None, False),
    ({"speed": "full"}, None, True),
    ({"speed": ["super+", "low"]}, None, False),
    ({"kind": "usb"}, None, True),
    ({"kind": "vudc"}, None, False),
    ({"busid": "1-1.*"}, None, True),
    ({"path": "*-usb-0:1.4"}, None, True),
    ({"path": "*-usb-0:1"}, None, False),
    ({}, {"vendor": "0403"}, True),
    ({}, {"vendor": "10c4"}, False),
    ({"vendor": "10c4"}, {"class": "hid", "serial": "01A7"}, True),
    ({"vendor": "10c4"}, {"class": "vendor", "serial": "01*"}, False),
])
def test_what_a_rule_marks(conditions: Keys, exceptions: Keys | None, marked: bool) -> None:
    ours, seen = device(serial="01A7", model="CP2102 USB to UART")
    one = policy(rule("a", conditions, exceptions))
    assert one.decide(ours).connects is marked
    assert is_marked(claim_rules(one), seen) is marked


def test_the_first_rule_that_matches_decides() -> None:
    many = policy(
        rule("a", {"class": "hid"}, connect=False), rule("b", {"vendor": "10c4"}),
        rule("c", {}, connect=False), default=LAB)
    text = claim_rules(many)
    assert is_marked(text, device()[1])
    assert not is_marked(text, device(interface_classes=frozenset({3, 0xFF}))[1])
    assert not is_marked(text, device(vendor="0403")[1])
    assert is_marked(claim_rules(policy(default=LAB)), device()[1])


def test_nothing_to_mark_is_no_file() -> None:
    assert claim_rules(policy()) == ""
    assert claim_rules(policy(rule("a", {"vendor": "10c4"}, connect=False))) == ""
    assert claim_rules(policy(rule("a", {"kind": "vudc"}))) == ""
    assert claim_rules(policy(rule("a", {"serial": 'x", RUN+="/bin/sh'}))) == ""


@pytest.mark.parametrize(
    "inexpressible", ['a"', "a\\", "a|b", "ä", " a", "a\n", "[z-a]x", "[[:alpha:]]", "[^a]"])
def test_what_udev_cannot_tell_marks_less(inexpressible: str) -> None:
    ours, seen = device(serial="01A7")
    text = claim_rules(policy(rule("a", {"serial": [inexpressible, "01A7"]})))
    assert is_marked(text, seen)
    assert f"{inexpressible}|" not in text
    excepted = policy(rule("a", {"vendor": "10c4"}, {"serial": inexpressible}))
    assert not is_marked(claim_rules(excepted), seen)
    ignored = policy(rule("a", {"vendor": "10c4", "serial": inexpressible}, connect=False), default=LAB)
    assert ignored.decide(ours).connects
    assert not is_marked(claim_rules(ignored), seen)
    assert is_marked(claim_rules(ignored), device(vendor="0403")[1])


@pytest.mark.parametrize(("pattern", "serial"), [
    ("?", "ä"), ("A*", " A1"), ("[!B]", "ä"), ("A", " A"), ("??", "é")])
def test_what_udev_sees_otherwise_marks_less(pattern: str, serial: str) -> None:
    seen = device(serial=serial)[1]
    for connect in (True, False):
        text = claim_rules(policy(
            rule("a", {"serial": pattern}, connect=connect), rule("b", {"vendor": "0403"}),
            default=() if connect else LAB))
        assert not is_marked(text, seen)


@pytest.mark.parametrize("held", ["1-1.4", "1-1"])
def test_a_device_that_is_held_is_an_ordinary_one(held: str) -> None:
    assert is_marked(claim_rules(policy(default=LAB), held=[held]), device()[1]) is (held != "1-1.4")
    assert claim_rules(policy(default=LAB), held=['1-1", RUN="x']) == claim_rules(policy(default=LAB))


@pytest.mark.parametrize(("changes", "marked"), [
    ({}, True), ({"device_class": 9}, False), ({"imported": True}, False)])
def test_hubs_and_imports_are_never_marked(changes: dict[str, Any], marked: bool) -> None:
    seen = device(**{name: value for name, value in changes.items() if name != "imported"})[1]
    seen.devpath = "/devices/platform/vhci_hcd.0/usb3/3-1" if "imported" in changes else seen.devpath
    assert is_marked(claim_rules(policy(default=LAB)), seen) is marked


@pytest.mark.parametrize(("subsystem", "expected"), [
    ("block", {"UDISKS_IGNORE": "1", "UDISKS_AUTO": "0", "ID_MM_DEVICE_IGNORE": "1"}),
    ("tty", {"ID_MM_DEVICE_IGNORE": "1"}),
    ("usb", {"MTP_NO_PROBE": "1", "ID_MM_DEVICE_IGNORE": "1"}),
    ("sound", {"PULSE_IGNORE": "1", "ACP_IGNORE": "1", "ID_MM_DEVICE_IGNORE": "1"}),
])
def test_what_hangs_on_a_marked_device_is_marked(subsystem: str, expected: dict[str, str]) -> None:
    text = claim_rules(policy(rule("a", {"vendor": "10c4"})))
    for mark, properties in (("1", {UDEV_CLAIMED: "1"} | expected), ("", {})):
        child = Seen("x", {}, {}, "/devices/pci0000:00/usb1/1-1.4/1-1.4:1.0/x", subsystem,
                     {UDEV_CLAIMED: mark} if mark else {})
        assert properties_after(text, child) == properties


ALPHABET = st.sampled_from("aA01.-_ *?[]!^|\\\"'$%{}#,ä\xa0\t\n") | st.characters(
    blacklist_categories=("Cs",), blacklist_characters="\0")
PATTERNS = st.text(ALPHABET, max_size=4)
RAW = st.text(ALPHABET, max_size=4)
TEXTS = st.dictionaries(
    st.sampled_from(["serial", "manufacturer", "model", "path"]), st.lists(PATTERNS, min_size=1, max_size=3),
    max_size=2)
OTHERS = st.sampled_from([
    {}, {"vendor": ["10c4"]}, {"vendor": ["0403", "10c4"]}, {"class": ["hid"]}, {"class": ["ff", "00"]},
    {"speed": ["full"]}, {"speed": ["low", "super+"]}, {"kind": ["usb"]}, {"kind": ["vudc"]},
    {"busid": ["1-*"]}, {"busid": ["2-*", "1-1.?"], "class": ["ff"]}])
MATCHES = st.builds(operator.or_, TEXTS, OTHERS)
RULES = st.lists(st.tuples(MATCHES, MATCHES, st.booleans()), max_size=4)


@given(rules=RULES, default=st.booleans(), serial=RAW, manufacturer=RAW, model=RAW)
def test_whatever_is_marked_is_connected(rules: list[tuple[Keys, Keys, bool]], default: bool,
                                         serial: str, manufacturer: str, model: str) -> None:
    many = policy(*(rule(str(number), conditions, exceptions, connect=connect)
                    for number, (conditions, exceptions, connect) in enumerate(rules)),
                  default=LAB if default else ())
    ours, seen = device(serial.rstrip("\n"), manufacturer.rstrip("\n"), model.rstrip("\n"))
    if is_marked(claim_rules(many), seen):
        assert many.decide(ours).connects


CLEAN = st.text(st.sampled_from("aA01.-_"), max_size=6)
CLEAN_PATTERNS = st.text(st.sampled_from("aA01.-_*?"), max_size=6)


@given(rules=st.lists(st.tuples(CLEAN_PATTERNS, st.booleans()), max_size=5), serial=CLEAN)
def test_clean_texts_are_marked_exactly_when_they_are_connected(
        rules: list[tuple[str, bool]], serial: str) -> None:
    many = policy(*(rule(str(number), {"serial": pattern}, connect=connect)
                    for number, (pattern, connect) in enumerate(rules)))
    ours, seen = device(serial)
    if serial:
        assert is_marked(claim_rules(many), seen) is many.decide(ours).connects


def test_thousands_of_values_stay_readable_for_udev() -> None:
    serials = [f"{number:08}" for number in range(4000)]
    text = claim_rules(policy(rule("a", {"serial": serials, "vendor": "10c4"}, {"model": serials})))
    assert not is_marked(text, device("12345678", model="x")[1])
    assert is_marked(claim_rules(policy(rule("a", {"serial": serials}))), device("00003999")[1])


@pytest.mark.skipif(not shutil.which("udevadm"), reason="no udevadm")
def test_udev_accepts_the_rules(tmp_path: Path) -> None:
    everything = policy(
        rule("a", {"class": list(CLASS_NAMES.values()), "speed": "super+", "serial": ["", "a?"]},
             {"model": "*x"}),
        rule("b", {"manufacturer": "?x"}, connect=False), rule("c", {"path": "*", "busid": "[12]-*"}),
        default=LAB)
    file = tmp_path / "61-claims.rules"
    file.write_text(claim_rules(everything, held=["1-1"]), encoding="ascii")
    said = subprocess.run(
        ["udevadm", "verify", "--resolve-names=never", str(file)],
        capture_output=True, text=True, check=False)
    if "Unknown command verb" in said.stderr:
        pytest.skip("udevadm verify comes with systemd 254")
    assert said.returncode == 0, said.stdout + said.stderr
