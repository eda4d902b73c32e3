"""Hosts that DNS finds (``srv:``), and the way back to a preferred host (``failback``)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.policy.samples import HOSTS, agent, device, problems_of
from usbip_agent.policy.values import destination, duration, failback_time

RULE = "version: 1\n" + HOSTS + "rules:\n- {name: a, "  # in line 4
HOST = "version: 1\nhosts: {a: {address: srv:_usbipa._tcp.example.net"  # in line 2


@pytest.mark.parametrize("written, service", [
    ("srv:_usbipa._tcp.example.net", "_usbipa._tcp.example.net"),
    ("'srv:_usb-ip._TCP.lab.example.net.'", "_usb-ip._tcp.lab.example.net"),
    ("lab.example.net", ""), ("192.0.2.7", ""), ("srv", ""),
])
def test_a_host_that_dns_finds(tmp_path: Path, written: str, service: str) -> None:
    (host,) = agent(tmp_path, f"version: 1\nhosts: {{a: {{address: {written}}}}}\n").hosts
    assert host.service == service


@pytest.mark.parametrize("text, why", [
    ("srv:", "is no service: write srv:_usbipa._tcp.example.net"),
    ("srv:lab.example.net", "is no service"), ("srv:usbipa._tcp.example.net", "is no service"),
    ("srv:_._tcp.example.net", "is no service"), ("srv:_usbipa.tcp.example.net", "is no service"),
    ("srv:_usbipa._udp.example.net", "USB/IP runs over TCP, write _tcp"),
    ("srv:_usbipa._tcp", "a domain must follow _tcp"), ("srv:_usbipa._tcp.", "a domain must follow _tcp"),
    ("srv:_usbipa._tcp.example.net:3240", "and no port: DNS has it"),
    ("srv:_usbipa._tcp.192.0.2.7", "a domain must follow _tcp"),
    ("srv:_usbipa._tcp.a..b", "a domain must follow _tcp"), ("srv:_usbipa._tcp.-a", "a domain must follow"),
    (f"srv:_usbipa._tcp.{'a.' * 130}net", "a domain must follow _tcp"),
    ("SRV:_usbipa._tcp.example.net", "the port has its own key"),
])
def test_what_is_no_service(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        destination(text)


@pytest.mark.parametrize("key, message", [
    ("port: 3240", "port has no place beside an address srv:…: the SRV records have it"),
    ("proxy: 'http://p:1'", "proxy has no place beside an address srv:…: it is asked for names"),
    ("transport: wss, url: 'wss://a/b'", "address has no place beside transport wss"),
])
def test_what_has_no_place_beside_a_service(tmp_path: Path, key: str, message: str) -> None:
    (found,) = problems_of(agent, tmp_path, f"{HOST}, {key}}}}}\n")
    assert found.startswith("agent.yaml:2: ") and message in found


def test_the_way_back(tmp_path: Path) -> None:
    policy = agent(tmp_path, RULE + "match: {vendor: 10c4}, connect: [lab, backup], failback: 10m}\n"
                   "- {name: b, match: {vendor: 046d}, connect: [lab, backup]}\n"
                   "default: {connect: [backup, lab], failback: 1h}\n")
    assert policy.decide(device()).failback == policy.explain(device()).failback == 600
    assert policy.decide(device(vendor="046d")).failback is None
    assert policy.decide(device(vendor="1234")).failback == 3600


@pytest.mark.parametrize("text, line, message", [
    (RULE + "connect: lab, failback: 10m}\n", 4, 'the rule "a" has failback but no list of hosts'),
    (RULE + "ignore: true, failback: 10m}\n", 4, 'the rule "a" has failback but no list of hosts'),
    (RULE + "connect: [lab, backup], failback: 10}\n", 4, 'failback: "10" is no time from 10s to 24h'),
    (RULE + "connect: [lab, backup], failback: }\n", 4, "failback: the value is missing"),
    (RULE + "ignore: true}\ndefault: {connect: lab, failback: 1m}\n", 5, "default has failback but no list"),
])
def test_a_way_back_that_is_none(tmp_path: Path, text: str, line: int, message: str) -> None:
    (found,) = problems_of(agent, tmp_path, text)
    assert found.startswith(f"agent.yaml:{line}: ") and message in found


@pytest.mark.parametrize("text, seconds", [
    ("10s", 10), ("90s", 90), ("10m", 600), ("10min", 600), ("2h", 7200), ("24h", 86400), ("86400s", 86400)])
def test_times(text: str, seconds: float) -> None:
    assert failback_time(text) == seconds


@pytest.mark.parametrize("text", [
    "", "s", "10", "9s", "25h", "1d", "10 m", "-1m", "1.5h", "1m30s", "٣٠s", "10M"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match="is no time from 10s to 24h: write"):
        failback_time(text)


def test_bounds_are_shown_in_their_largest_unit() -> None:
    with pytest.raises(ValueError, match="from 90s to 10m"):
        duration("1h", 90, 600)
