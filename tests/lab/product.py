"""The product in the lab's guests: how it is configured, what it says, and what it must leave behind.

All configurations of the lab's tests are made here, so that the transport is chosen in one place.
"""
from __future__ import annotations

import json
from typing import Any

from .guest import Guest
from .pair import Pair

TRANSPORT = "plain"
LISTENER_TRANSPORT = {"plain": "plain", "tls": "tls", "wss": "ws"}[TRANSPORT]
LAB = "lab"                 # what the agent's configuration calls the host
SLOW = 90.0                 # seconds for what takes a few on a machine that does nothing else

AGENT, USBIPA = "usbip-agent", "usbipa"
FILES = {AGENT: "/etc/usbip-agent/agent.yaml", USBIPA: "/etc/usbipa/usbipa.yaml"}
RECORDS = {AGENT: "/run/usbip-agent/exports", USBIPA: "/run/usbipa/imports"}
BUS = {AGENT: ("org.usbip.Agent1", "/org/usbip/Agent1"), USBIPA: ("org.usbip.Usbipa1", "/org/usbip/Usbipa1")}

STUB = "/sys/bus/usb/drivers/usbip-host"
VHCI = "/sys/devices/platform/vhci_hcd.0"
TAKEN_PORTS = f"cat {VHCI}/status* | grep -E '^[hs]s' | grep -vE '^.. +[0-9]+ +004'"

STICKS = "{name: sticks, match: {vendor: 46f4}, connect: lab}"
EVERYTHING = "{name: everything, connect: lab}"


def agent_yaml(*rules: str, default: str = "ignore", address: str = "host", port: int = 3240,
               more_hosts: str = "") -> str:
    """The agent's configuration with one host, ``lab``."""
    host = f"  lab: {{address: {address}, port: {port}, transport: {TRANSPORT}}}\n"
    return "\n".join(["version: 1", "hosts:", host + more_hosts, "rules:",
                      *(f"  - {rule}" for rule in rules), f"default: {default}", ""])


def usbipa_yaml(*rules: str, default: str = "accept", port: int = 3240) -> str:
    """usbipa's configuration with one listener."""
    return "\n".join(["version: 1", "listen:",
                      f"  - {{address: \"*\", port: {port}, transports: [{LISTENER_TRANSPORT}]}}", "rules:",
                      *(f"  - {rule}" for rule in rules), f"default: {default}", ""])


def configure(guest: Guest, service: str, text: str) -> None:
    """Writes a configuration and reloads; returns when the daemon works by it."""
    guest.put(FILES[service], text)
    reload(guest, service)


def reload(guest: Guest, service: str) -> None:
    """Reloads by way of the bus, which answers when it is done."""
    name, path = BUS[service]
    guest.run(["busctl", "--timeout=60", "call", name, path, f"{name}.Manager", "Reload"], SLOW)


def set_up(pair: Pair, *rules: str, accept: tuple[str, ...] = (), default: str = "accept") -> None:
    """Both sides: the agent connects by *rules*, usbipa takes by *accept*, else *default*."""
    configure(pair.host, USBIPA, usbipa_yaml(*accept, default=default))
    configure(pair.node, AGENT, agent_yaml(*(rules or (STICKS,))))


# What is said

def devices(node: Guest, check: bool = True) -> dict[str, dict[str, Any]]:
    """``usbip-agent status --json``, by busid."""
    said = node.run(["usbip-agent", "status", "--json"], SLOW, check=check).json
    assert said["version"] == 1
    return {device["bus_id"]: device for device in said["devices"]}


def imports(host: Guest, check: bool = True) -> dict[str, dict[str, Any]]:
    """``usbipa status --json``, by the busid on the node."""
    said = host.run(["usbipa", "status", "--json"], SLOW, check=check).json
    assert said["version"] == 1
    return {each["bus_id"]: each for each in said["imports"]}


def property_of(busid: str, name: str) -> str:
    """A shell command that prints a property of a device of the agent (quickly: no Python starts)."""
    escaped = "".join(sign if sign.isalpha() or (index and sign.isdigit()) else f"_{ord(sign):02x}"
                      for index, sign in enumerate(busid))
    return f"busctl --auto-start=no get-property org.usbip.Agent1 /org/usbip/Agent1/device/{escaped} " \
           f"org.usbip.Agent1.Device {name}"


def until_state(node: Guest, busid: str, state: str, deadline: float = SLOW) -> None:
    """Waits until the agent says that a device is in a state."""
    node.until(f"""[ "$({property_of(busid, 'State')})" = 's "{state}"' ]""", deadline)


def until_reason(node: Guest, busid: str, pattern: str, deadline: float = SLOW) -> None:
    """Waits until the reason of a device's state matches a pattern of ``grep -E``."""
    node.until(f"{property_of(busid, 'Reason')} | grep -qE '{pattern}'", deadline)


def until_attached(host: Guest, count: int = 1, deadline: float = SLOW) -> None:
    """Waits until so many ports of vhci-hcd carry an enumerated device."""
    host.until(f"[ $(cat {VHCI}/status* | grep -cE '^.. +[0-9]+ +006') = {count} ]", deadline)


def failure(guest: Guest, command: str, status: int) -> str:
    """The one line that a command fails with, in the way that the contract has."""
    result = guest.run(command, SLOW, check=False)
    assert result.rc == status, (result.rc, result.stdout, result.stderr)
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    return result.stderr.strip()


def journal(guest: Guest, *matches: str) -> list[dict[str, Any]]:
    """The entries of this boot's journal with these fields, oldest first."""
    said = guest.run(["journalctl", "-b", "-o", "json", "--no-pager", *matches], SLOW, check=False)
    return [json.loads(line) for line in said.stdout.splitlines() if line.startswith("{")]


def status_line(guest: Guest, service: str) -> str:
    """What ``systemctl status`` shows behind ``Status:``."""
    said = guest.run(["systemctl", "status", "--no-pager", service], SLOW, check=False).stdout
    [line] = [line for line in said.splitlines() if line.lstrip().startswith("Status:")]
    return line.split('"', 1)[1].rstrip('"')


def until_status(guest: Guest, service: str, pattern: str, deadline: float = SLOW) -> None:
    """Waits until the status line matches a pattern of ``grep -E``."""
    guest.until(f"systemctl show -p StatusText --value {service} | grep -qE '{pattern}'", deadline)


def driver(guest: Guest, busid: str) -> str:
    """The driver of a USB device itself (``usb`` locally, ``usbip-host`` when exported)."""
    return guest.sh(f"basename $(readlink /sys/bus/usb/devices/{busid}/driver)")


def pid(guest: Guest, service: str) -> int:
    """The daemon's process."""
    return int(guest.sh(f"systemctl show -p MainPID --value {service}"))


def crash(guest: Guest, service: str) -> None:
    """Kills a daemon, and waits until systemd has started it again."""
    before = pid(guest, service)
    guest.run(["kill", "-9", str(before)])
    guest.until(f"systemctl is-active {service} && "
                f"[ $(systemctl show -p MainPID --value {service}) != {before} ]", SLOW)


# What is left

def until_clean(pair: Pair, deadline: float = SLOW) -> None:
    """Waits until nothing is exported and imported any more, and nothing is left of what was."""
    until_node_clean(pair.node, deadline)
    until_host_clean(pair.host, deadline)
    assert pair.node.dmesg_warnings() == pair.host.dmesg_warnings() == []


def until_node_clean(node: Guest, deadline: float = SLOW) -> None:
    """The device side: no entry in the stub's table, nothing bound, no record, no stored link."""
    node.until(f'[ -z "$(tr -d "[:space:]" < {STUB}/match_busid)" ]', deadline)
    node.until(f"! ls -d {STUB}/[0-9]*-*", deadline)
    _until_forgotten(node, AGENT, deadline)


def until_host_clean(host: Guest, deadline: float = SLOW) -> None:
    """The application side: every port free, no record, no stored link, no import on the bus."""
    host.until(f"! {TAKEN_PORTS}", deadline)
    _until_forgotten(host, USBIPA, deadline)
    objects = "org.freedesktop.DBus.ObjectManager GetManagedObjects"
    manager = " ".join(BUS[USBIPA])
    host.until(f"! busctl --auto-start=no call {manager} {objects} | grep -q import/", deadline)


def _until_forgotten(guest: Guest, service: str, deadline: float) -> None:
    guest.until(f"[ -z \"$(ls -A {RECORDS[service]} 2>/dev/null)\" ]", deadline)
    # Listening sockets may stay there. Before systemd 254 names are not told; there only the agent is tested.
    stored, links = f"systemd-analyze fdstore {service}", "grep -qE '^(im|ex)port-'"
    count = f"systemctl show -p NFileDescriptorStore --value {service}"
    guest.until(f"if {stored}; then ! {stored} | {links}; else [ $({count}) = 0 ]; fi", deadline)
