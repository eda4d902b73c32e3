"""What the device side decides, and what it says about it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.unit.policy.samples import HOSTS, agent, device, problems_of, write
from usbip_agent.names import DEFAULT_PORT
from usbip_agent.policy.agent import Host, Transport, load_agent_policy, load_agent_policy_files
from usbip_agent.policy.explain import lines, plain
from usbip_agent.policy.proxy import Proxy

CONTRACT = """\
version: 1
node: pi-kitchen                  # optional; default: the host name
hosts:
  lab:    {address: lab.example.net, port: 3240, transport: plain}
  backup: {address: "2001:db8::7", transport: plain}
rules:                            # first match wins; rules of agent.yaml come first
  - name: zigbee stick
    match: {vendor: 10c4, product: ea60, serial: "01A*"}
    connect: [lab, backup]        # one name or an ordered list: failover
  - name: nothing that types
    match: {class: hid}
    ignore: true
default: ignore                   # or {connect: lab}
"""


def test_the_example_of_the_contract(tmp_path: Path) -> None:
    policy = agent(tmp_path, CONTRACT)
    lab = Host("lab", "lab.example.net", 3240, Transport.PLAIN)
    backup = Host("backup", "2001:db8::7", 3240, Transport.PLAIN)
    assert (policy.node, policy.hosts) == ("pi-kitchen", (lab, backup))
    assert policy.host("backup") is policy.hosts[1]
    assert policy.host("elsewhere") is None
    decision = policy.decide(device())
    assert (decision.rule, decision.hosts, decision.connects) == ("zigbee stick", (lab, backup), True)
    keyboard = policy.decide(device(vendor="046d", interface_classes=frozenset({3})))
    assert (keyboard.rule, keyboard.connects) == ("nothing that types", False)
    assert policy.decide(device(vendor="046d")).rule == "default"


def test_trace(tmp_path: Path) -> None:
    policy = agent(tmp_path, CONTRACT)
    (step,) = policy.decide(device()).trace
    assert step.why == 'vendor 10c4, product ea60, serial "01A*" hold: connect to lab, then backup'
    assert (step.rule, step.location, step.matched) == ("zigbee stick", "agent.yaml:7", True)
    decision = policy.explain(device(serial="0123", interface_classes=frozenset({8})))
    assert [(each.rule, each.location, each.matched, each.why) for each in decision.trace] == [
        ("zigbee stick", "agent.yaml:7", False, 'serial is "0123", not "01A*"'),
        ("nothing that types", "agent.yaml:10", False, "class is storage, not hid"),
        ("default", "agent.yaml:13", True, "no rule matches: ignore")]
    assert lines(decision) == (
        'agent.yaml:7   zigbee stick: no, serial is "0123", not "01A*"',
        "agent.yaml:10  nothing that types: no, class is storage, not hid",
        "agent.yaml:13  default: yes, no rule matches: ignore",
        "ignore (by the default)")


def test_plain_structure(tmp_path: Path) -> None:
    assert plain(agent(tmp_path, CONTRACT).explain(device())) == {
        "rule": "zigbee stick", "verdict": "connect to lab, then backup", "hosts": ["lab", "backup"],
        "steps": [{"rule": "zigbee stick", "location": "agent.yaml:7", "matched": True,
                   "why": 'vendor 10c4, product ea60, serial "01A*" hold: connect to lab, then backup'}]}


def test_a_hostile_serial_does_not_reach_the_terminal(tmp_path: Path) -> None:
    policy = agent(tmp_path, CONTRACT)
    decision = policy.explain(device(serial='\x1b]0;gotcha\x07"\n'))
    assert all(line.isprintable() for line in lines(decision))


def test_first_match_wins_over_all_files_in_name_order(tmp_path: Path) -> None:
    rule = "version: 1\nrules: [{name: %s, match: {vendor: [%s]}, connect: lab}]\n"
    (tmp_path / "agent.d").mkdir()
    # Made in the reverse order, so that the directory's own order is unlikely to be the right one.
    for name, vendors in (("b", "0003, 0002, 0001"), ("a", "0002, 0001"), ("Z", "000a, 0002")):
        write(tmp_path, f"agent.d/{name}.yaml", rule % (name, vendors))
    main = "rules: [{name: m, match: {vendor: 0001}, ignore: true}]\n"
    policy = agent(tmp_path, "version: 1\n" + HOSTS + main)
    expected = {"0001": "m", "0002": "Z", "0003": "b", "000a": "Z", "0004": "default"}
    assert {vendor: policy.decide(device(vendor=vendor)).rule for vendor in expected} == expected
    assert policy.decide(device(vendor="0003")).trace[0].location == "agent.d/b.yaml:2"


def test_only_visible_yaml_files_are_drop_ins(tmp_path: Path) -> None:
    for name in ("a.yaml~", ".#a.yaml", "README", "a.yml", ".a.yaml"):
        write(tmp_path, f"agent.d/{name}", "not: ours\n")
    assert agent(tmp_path, "version: 1\n").rules == ()


def test_a_drop_in_may_declare_what_the_main_file_uses(tmp_path: Path) -> None:
    policy = agent(tmp_path, "version: 1\nrules: [{connect: lab}]\n",
                   lab="version: 1\n" + HOSTS + "node: x\n",
                   late="version: 1\ndefault: {connect: [backup, lab]}\n")
    assert policy.decide(device()).hosts == (policy.host("lab"),)
    assert [host.name for host in policy.default_hosts] == ["backup", "lab"]
    assert policy.node == "x"


def test_a_rule_without_name_goes_by_its_number_and_file(tmp_path: Path) -> None:
    text = "version: 1\nrules: [{match: {kind: vudc}, ignore: true}, {ignore: true}]\n"
    policy = agent(tmp_path, text, agent=text)
    assert [rule.name for rule in policy.rules] == [
        "rule 1 of agent.yaml", "rule 2 of agent.yaml", "rule 1 of agent.d/agent.yaml",
        "rule 2 of agent.d/agent.yaml"]
    assert policy.decide(device()).rule == "rule 2 of agent.yaml"


def test_a_rule_without_match_is_for_every_device(tmp_path: Path) -> None:
    policy = agent(tmp_path, "version: 1\n" + HOSTS + "rules: [{connect: lab}]\n")
    assert policy.decide(device()).trace[0].why == "every device: connect to lab"


def test_default_connects(tmp_path: Path) -> None:
    decision = agent(tmp_path, "version: 1\n" + HOSTS + "default: {connect: lab}\n").decide(device())
    assert (decision.rule, decision.connects) == ("default", True)
    assert decision.why == "no rule matches: connect to lab"


def test_nothing_said_is_nothing_connected(tmp_path: Path) -> None:
    decision = agent(tmp_path, "version: 1\nrules:\nhosts:\n").explain(device())
    assert (decision.rule, decision.hosts, decision.trace[0].location) == ("default", (), "built in")


def test_defaults_of_a_host(tmp_path: Path) -> None:
    hosts = "{a: {address: b}, w: {transport: wss, url: 'wss://x.example/u'}}"
    policy = agent(tmp_path, f"version: 1\nhosts: {hosts}\n")
    assert policy.host("a") == Host("a", "b", DEFAULT_PORT, Transport.TLS)
    assert policy.host("w") == Host("w", transport=Transport.WSS, url="wss://x.example/u")


@pytest.mark.parametrize("address", [
    "lab", "LAB.example.net", "lab_2.example.net.", "192.0.2.1", "'2001:db8::7'", "'fe80::1%eth0'",
    "xn--bcher-kva.example",
])
def test_addresses_that_are_taken(tmp_path: Path, address: str) -> None:
    (host,) = agent(tmp_path, f"version: 1\nhosts: {{a: {{address: {address}}}}}\n").hosts
    assert host.address == address.strip("'")


@pytest.mark.parametrize("url", [
    "wss://a", "wss://a/", "wss://a.example:8443/x?y=z", "wss://[2001:db8::1]:8443/x",
])
def test_urls_that_are_taken(tmp_path: Path, url: str) -> None:
    (host,) = agent(tmp_path, f"version: 1\nhosts: {{a: {{transport: wss, url: '{url}'}}}}\n").hosts
    assert (host.url, host.address) == (url, "")


def test_the_node_is_called_after_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(nodename="pi-7.example.net"))
    assert agent(tmp_path, "version: 1\n").node == "pi-7"
    assert agent(tmp_path, "version: 1\nnode: other\n").node == "other"


def test_a_host_name_that_is_no_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(nodename="küche"))
    assert problems_of(agent, tmp_path, "version: 1\n") == [
        'agent.yaml: the host name does not do for a node: "küche" is no name: up to 64 of A-Z a-z 0-9 . _ -,'
        " and no . or - in front; set node:"]


def test_named_files_alone(tmp_path: Path) -> None:
    write(tmp_path, "agent.d/x.yaml", "broken")
    first = write(tmp_path, "one.yaml", "version: 1\nrules: [{connect: lab}]\n")
    second = write(tmp_path, "two.yaml", "version: 1\n" + HOSTS)
    policy = load_agent_policy_files([first, second])
    assert policy.decide(device()).connects
    assert policy.rules[0].name == "rule 1 of one.yaml"


def test_text_forms(tmp_path: Path) -> None:
    """A mark of byte order, carriage returns, comments and a document's start are how editors write."""
    text = "\ufeff---\r\nversion: 1 # one\r\n\r\nnode: a\r\n...\r\n"
    assert agent(tmp_path, text).node == "a"


def test_many_rules(tmp_path: Path) -> None:
    rules = "".join(
        f"- name: stick {number}\n  match: {{vendor: {number:04x}, serial: 'A{number}*'}}\n  connect: [lab]\n"
        for number in range(5000))
    policy = agent(tmp_path, "version: 1\n" + HOSTS + "rules:\n" + rules)
    assert len(policy.rules) == 5000
    last = device(vendor=f"{4999:04x}", serial="A4999x")
    assert policy.decide(last).rule == "stick 4999"
    assert len(policy.explain(last).trace) == 5000
    assert policy.decide(replace(last, serial="A499")).rule == "default"


def test_a_reload_makes_another_policy(tmp_path: Path) -> None:
    before = agent(tmp_path, "version: 1\nnode: a\n")
    assert load_agent_policy(tmp_path / "agent.yaml", tmp_path / "agent.d") == before
    assert agent(tmp_path, "version: 1\nnode: b\n") != before


def test_who_a_host_is_and_who_we_are_to_it(tmp_path: Path) -> None:
    pin = "sha256:" + "AB" * 32
    policy = agent(tmp_path, f"""\
version: 1
hosts:
  pinned: {{address: b, fingerprint: '{pin}', dead_after: 2m}}
  web: {{transport: wss, url: 'wss://x/u', fingerprint: {pin}, proxy: 'http://p:3128', dead_after: 3s}}
  corporate: {{address: b, ca: /etc/ssl/ca.pem, certificate: /etc/ssl/c.pem, key: /etc/ssl/k.pem}}
  impatient: {{address: b, transport: plain, dead_after: 10min}}
""")
    assert policy.hosts == (
        Host("pinned", "b", fingerprint=pin.lower(), dead_after=120.0),
        Host("web", transport=Transport.WSS, url="wss://x/u", fingerprint=pin.lower(),
             proxy=Proxy("p", 3128), dead_after=3.0),
        Host("corporate", "b", ca=Path("/etc/ssl/ca.pem"), certificate=Path("/etc/ssl/c.pem"),
             key=Path("/etc/ssl/k.pem")),
        Host("impatient", "b", transport=Transport.PLAIN, dead_after=600.0))
    assert len({*policy.hosts}) == 4
    assert [host.dead_after for host in policy.hosts] == [120.0, 3.0, 10.0, 600.0]
