"""udev's reading of the rules that we make, as far as they go, to ask what would be marked."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

_TERM = re.compile(r'([A-Z]+)(?:\{([^}]*)\})?(==|!=|=)"([^"]*)"')
LONGEST_LINE = 16384
"""UDEV_LINE_SIZE of systemd 252."""


@dataclass(slots=True)
class Seen:
    """What udev sees of one device: raw bytes as Latin-1, as it compares bytes."""

    kernel: str
    attributes: dict[str, str]
    properties: dict[str, str]
    devpath: str = ""
    subsystem: str = "usb"
    parent: dict[str, str] = field(default_factory=dict)


def parse(rules: str) -> list[list[tuple[str, str, str, str]]]:
    """The rules as lists of (key, name, operator, value). Fails on whatever udev could take otherwise."""
    parsed = []
    for line in rules.splitlines():
        assert len(line) < LONGEST_LINE
        assert not line.endswith("\\")
        if line and not line.startswith("#"):
            assert _TERM.sub("", line).replace(", ", "") == "", line
            assert re.fullmatch(r"[ -~]*", line) and "\\" not in line
            parsed.append(_TERM.findall(line))
    return parsed


def properties_after(rules: str, seen: Seen) -> dict[str, str]:
    """The properties of *seen* after its event."""
    seen = replace(seen, properties=dict(seen.properties))
    wanted_label = ""
    for terms in parse(rules):
        if wanted_label:
            if ("LABEL", "", "=", wanted_label) not in terms:
                continue
            wanted_label = ""
        if not all(_holds(*term, seen) for term in terms if term[2] != "=" and term[0] != "IMPORT"):
            continue
        for key, name, operator, value in terms:
            if key == "ENV" and operator == "=":
                seen.properties[name] = value
            elif key == "IMPORT" and name == "parent" and value in seen.parent:
                seen.properties[value] = seen.parent[value]
            elif key == "GOTO":
                wanted_label = value
    assert not wanted_label, "a jump to a label that is not further down"
    return seen.properties


def _holds(key: str, name: str, operator: str, value: str, seen: Seen) -> bool:
    if key == "TEST":
        return (value in seen.attributes) == (operator == "==")
    actual = _actual(key, name, seen)
    if actual is None:
        return False  # an attribute that is not there, whatever the operator
    if key == "ATTR" and not value.endswith(" "):
        actual = actual.rstrip(" \t\n\r")
    # fnmatch(3) in the C locale
    return any(fnmatchcase(actual, each) for each in value.split("|")) == (operator == "==")


def _actual(key: str, name: str, seen: Seen) -> str | None:
    match key:
        case "ATTR":
            return seen.attributes.get(name)
        case "ENV":
            return seen.properties.get(name, "")
        case "ACTION":
            return "add"
        case "KERNEL" | "KERNELS":
            return seen.kernel
        case "DEVPATH":
            return seen.devpath
        case "SUBSYSTEM" | "SUBSYSTEMS":
            return seen.subsystem
    raise AssertionError(f"udev key {key}")
