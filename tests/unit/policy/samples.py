"""Devices and files that the tests of this room share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from usbip_agent.device import Device, Kind, Speed
from usbip_agent.policy.agent import AgentPolicy, load_agent_policy
from usbip_agent.policy.problems import InvalidConfiguration
from usbip_agent.policy.usbipa import AcceptPolicy, load_accept_policy

HOSTS = "hosts: {lab: {address: lab.example.net}, backup: {address: 192.0.2.7}}\n"


def device(**changes: Any) -> Device:
    """The zigbee stick of the contract, or another one."""
    values: dict[str, Any] = {
        "kind": Kind.USB, "bus_id": "1-1.4", "bus_number": 1, "device_number": 7, "speed": Speed.FULL,
        "vendor": "10c4", "product": "ea60", "serial": "01A7", "manufacturer": "Silicon Labs",
        "model": "CP2102", "path": "pci-0000:00:14.0-usb-0:1.4", "interface_classes": frozenset({0xFF}),
    }
    return Device(**values | changes)


def write(directory: Path, name: str, text: str | bytes) -> Path:
    """A configuration file or, with a directory in its *name*, a drop-in."""
    file = directory / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file


def agent(directory: Path, text: str | bytes, **drop_ins: str | bytes) -> AgentPolicy:
    """The agent's policy of *text* and of drop-ins called after the keywords."""
    for name, drop_in in drop_ins.items():
        write(directory, f"agent.d/{name}.yaml", drop_in)
    return load_agent_policy(write(directory, "agent.yaml", text), directory / "agent.d")


def usbipa(directory: Path, text: str | bytes, **drop_ins: str | bytes) -> AcceptPolicy:
    """As ``agent``, of usbipa."""
    for name, drop_in in drop_ins.items():
        write(directory, f"usbipa.d/{name}.yaml", drop_in)
    return load_accept_policy(write(directory, "usbipa.yaml", text), directory / "usbipa.d")


def problems_of(load: Callable[..., object], directory: Path, text: str | bytes,
                **drop_ins: str | bytes) -> list[str]:
    """Every problem of an invalid configuration, as ``agent.yaml:3: message``."""
    try:
        policy = load(directory, text, **drop_ins)
    except InvalidConfiguration as invalid:
        assert invalid.problems
        return [str(each).removeprefix(f"{directory}/") for each in invalid.problems]
    raise AssertionError(f"this was taken: {policy}")
