"""What ``match`` holds for."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.policy.samples import agent, device
from usbip_agent.device import CLASS_NAMES, Kind, Speed
from usbip_agent.policy.match import EVERYTHING, MATCH_KEYS, Match

HOLDING: list[tuple[str, Any, dict[str, Any]]] = [
    ("vendor", "10c4", {}), ("vendor", "10C4", {}), ("vendor", ["0403", "10c4"], {}),
    ("vendor", "0403", {"vendor": "0403"}), ("vendor", "1e10", {"vendor": "1e10"}), ("product", "EA60", {}),
    ("class", "vendor", {}), ("class", "ff", {}), ("class", "FF", {}), ("class", ["hid", "vendor"], {}),
    ("class", "hub", {"device_class": 9}), ("class", "00", {}), ("class", "42", {"device_class": 0x42}),
    ("kind", "usb", {}), ("kind", "vudc", {"kind": Kind.VUDC}), ("speed", "full", {}),
    ("speed", "super+", {"speed": Speed.SUPER_PLUS}), ("serial", "01A*", {}), ("serial", "01A7", {}),
    ("serial", "", {"serial": ""}), ("serial", "*", {"serial": ""}), ("serial", "*", {"serial": "a\nb"}),
    ("serial", "0?A[0-9]", {}), ("serial", "[!x]*", {}), ("serial", "[*]", {"serial": "*"}),
    ("serial", "[", {"serial": "["}), ("serial", "a.b", {"serial": "a.b"}),
    ("serial", "no", {"serial": "no"}),
    ("manufacturer", "Silicon*", {}), ("model", "*21*", {}), ("busid", "1-1.*", {}),
    ("path", "*-usb-0:1.4", {}),
]

NOT_HOLDING: list[tuple[str, Any, dict[str, Any], str]] = [
    ("vendor", "0403", {}, "vendor is 10c4, not 0403"),
    ("vendor", ["0403", "067b", "1A86"], {}, "vendor is 10c4, not 0403, 067b or 1a86"),
    ("product", "ea61", {}, "product is ea60, not ea61"),
    ("class", "hid", {}, "class is vendor, not hid"),
    ("class", "hid", {"interface_classes": frozenset()}, "class is 00, not hid"),
    ("class", "hid", {"device_class": 8}, "class is storage and vendor, not hid"),
    ("class", "03", {"device_class": 0x42, "interface_classes": frozenset()}, "class is 42, not hid"),
    ("kind", "vudc", {}, "kind is usb, not vudc"),
    ("speed", ["super", "super+"], {}, "speed is full, not super or super+"),
    ("serial", "01A*", {"serial": "0123"}, 'serial is "0123", not "01A*"'),
    ("serial", "01A", {}, 'serial is "01A7", not "01A"'),
    ("serial", "*1A", {}, 'serial is "01A7", not "*1A"'),
    ("serial", "01a7", {}, 'serial is "01A7", not "01a7"'),
    ("serial", "01a*", {}, 'serial is "01A7", not "01a*"'),
    ("serial", "?*", {"serial": ""}, 'serial is "", not "?*"'),
    ("serial", "", {}, 'serial is "01A7", not ""'),
    ("serial", "a.b", {"serial": "axb"}, 'serial is "axb", not "a.b"'),
    ("serial", "x", {"serial": "x\n"}, 'serial is "x\\n", not "x"'),
    ("serial", "x*", {"serial": "\x1bx"}, 'serial is "\\x1bx", not "x*"'),
    ("busid", "1-1", {}, 'busid is "1-1.4", not "1-1"'),
]


@pytest.mark.parametrize("key, wanted, changes", HOLDING)
def test_holds(key: str, wanted: Any, changes: dict[str, Any]) -> None:
    assert Match.of({key: wanted}).examine(device(**changes)) is None


@pytest.mark.parametrize("key, wanted, changes, why", NOT_HOLDING)
def test_does_not_hold(key: str, wanted: Any, changes: dict[str, Any], why: str) -> None:
    assert str(Match.of({key: wanted}).examine(device(**changes))) == why


@pytest.mark.parametrize("name", CLASS_NAMES.values())
def test_every_class_name(name: str) -> None:
    code = next(code for code, each in CLASS_NAMES.items() if each == name)
    assert Match.of({"class": name}).examine(device(interface_classes=frozenset({code}))) is None
    assert Match.of({"class": name}).examine(device(interface_classes=frozenset({0x77}))) is not None


def test_all_keys_must_hold() -> None:
    match = Match.of({"serial": "01A*", "vendor": "10c4"})
    assert match.examine(device()) is None
    assert match.examine(device(vendor="0403")) is not None
    assert match.examine(device(serial="x")) is not None


def test_not_negates_the_set() -> None:
    match = Match.of({"vendor": "10c4"}, {"product": "ea60", "serial": ["01A*", "01B*"]})
    assert str(match.examine(device())) == 'the exception holds: product ea60, serial "01A*"'
    assert match.examine(device(product="ea61")) is None
    assert match.examine(device(serial="02")) is None
    assert str(match.examine(device(vendor="0403", serial="02"))) == "vendor is 0403, not 10c4"


def test_not_in_a_file(tmp_path: Path) -> None:
    rule = "{connect: lab, match: {not: {class: [hid, hub]}}}"
    policy = agent(tmp_path, f"version: 1\nhosts: {{lab: {{address: a}}}}\nrules: [{rule}]\n")
    assert policy.decide(device()).trace[0].why == "not {class hid or hub} holds: connect to lab"
    for code in (3, 9):
        decision = policy.explain(device(interface_classes=frozenset({code, 8})))
        assert not decision.connects
        assert decision.trace[0].why == f"the exception holds: class {CLASS_NAMES[code]}"


@pytest.mark.parametrize("text", ["0403", "1e10", "0000", "12e4"])
def test_unquoted_digits_are_text(tmp_path: Path, text: str) -> None:
    rule = f"{{match: {{vendor: {text}, serial: {text}}}, connect: lab}}"
    policy = agent(tmp_path, f"version: 1\nhosts: {{lab: {{address: a}}}}\nrules: [{rule}]\n")
    assert policy.decide(device(vendor=text, serial=text)).connects


@pytest.mark.parametrize("text", [
    "no", "yes", "on", "null", "~", "0x10", "012", "1_000", "1.0", ".inf", "2026-11-22", "1:30",
])
def test_unquoted_words_are_text(tmp_path: Path, text: str) -> None:
    policy = agent(tmp_path, f"version: 1\nhosts: {{lab: {{address: a}}}}\n"
                             f"rules: [{{match: {{serial: {text}}}, connect: lab}}]\n")
    assert policy.decide(device(serial=text)).connects
    assert not policy.decide(device(serial="")).connects


def test_a_hostile_pair_of_pattern_and_serial_is_quick() -> None:
    """Backtracking over a hundred stars would not end in this universe."""
    match = Match.of({"serial": "*a" * 120 + "b"})
    begin = time.process_time()
    assert match.examine(device(serial="a" * 126)) is not None
    assert Match.of({"serial": "*" * 255 + "b"}).examine(device(serial="a" * 126)) is not None
    assert time.process_time() - begin < 5


WANTED = {
    "vendor": st.sampled_from(["10c4", "0403"]), "product": st.sampled_from(["ea60", "6001"]),
    "class": st.sampled_from(["hid", "vendor", "08"]), "kind": st.sampled_from(["usb", "vudc"]),
    "speed": st.sampled_from(["full", "high"]), "serial": st.text("01A7*?[]!", max_size=6),
    "manufacturer": st.sampled_from(["Sil*", "FTDI"]), "model": st.sampled_from(["CP*", "FT*"]),
    "busid": st.sampled_from(["1-*", "2-*"]), "path": st.sampled_from(["pci-*", "platform-*"]),
}
CONDITIONS = st.lists(st.sampled_from(sorted(WANTED)), unique=True).flatmap(
    lambda keys: st.fixed_dictionaries({key: WANTED[key] for key in keys}))
DEVICES = st.builds(
    device, vendor=st.sampled_from(["10c4", "0403"]), serial=st.text("01A7", max_size=4),
    interface_classes=st.frozensets(st.sampled_from([3, 8, 0xFF])), kind=st.sampled_from(Kind))


def test_the_strategy_knows_every_key() -> None:
    assert set(WANTED) == {key.name for key in MATCH_KEYS}


@given(CONDITIONS, CONDITIONS, DEVICES)
def test_fewer_conditions_never_match_less(conditions: Any, exceptions: Any, one: Any) -> None:
    if Match.of(conditions, exceptions).examine(one) is None:
        for key in conditions:
            fewer = {name: wanted for name, wanted in conditions.items() if name != key}
            assert Match.of(fewer, exceptions).examine(one) is None


@given(CONDITIONS, DEVICES)
def test_exceptions_are_the_complement(conditions: Any, one: Any) -> None:
    holds = Match.of(conditions).examine(one) is None
    excepted = Match.of({}, conditions).examine(one) is not None
    assert excepted == (holds and bool(conditions))
    assert EVERYTHING.examine(one) is None
