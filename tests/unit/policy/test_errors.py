"""Every kind of configuration error is reported with its file and its line, and none yields a policy."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.policy.samples import HOSTS, agent, problems_of, usbipa, write
from usbip_agent.errors import ExitStatus
from usbip_agent.policy.agent import load_agent_policy, load_agent_policy_files
from usbip_agent.policy.files import MAXIMUM_BYTES
from usbip_agent.policy.problems import InvalidConfiguration

RULE = "version: 1\n" + HOSTS + "rules:\n- {name: a, "  # the rule stands in line 4
HOST = "version: 1\nhosts: {a: {address: b, "  # in line 2
ACCEPT = "version: 1\nrules:\n- {name: a, "  # in line 3

Case = tuple[str | bytes, int, str]
"""A text, the line of its only problem, and what the message holds."""

TEXTS: list[Case] = [
    ("", 1, 'empty: a configuration begins with "version: 1"'),
    ("# nothing\n", 1, "empty"),
    ("just text\n", 1, "a configuration is a mapping"),
    ("- version: 1\n", 1, "a configuration is a mapping"),
    ("rules: []\n", 1, "a configuration needs version"),
    ("\nversion: 2\n", 2, 'version: "2" is not known'),
    ("version: 01\n", 1, 'version: "01" is not known'),
    ("version: 1.0\n", 1, 'version: "1.0" is not known'),
    ("version:\n", 1, "version: the value is missing"),
    ("version: [1]\n", 1, "version: one text must stand here, not a list"),
    ("version: 1\nversion: 1\n", 2, '"version" stands twice, first in line 1'),
    ("version: 1\nruels: []\n", 2, 'has no key "ruels": did you mean "rules"?'),
    ("version: 1\nxyzzy: []\n", 2, 'has no key "xyzzy": known are version, '),
    ("version: 1\n1: 2\n", 2, 'has no key "1"'),
    ("version: 1\n? [a]\n: b\n", 2, "a key is one text"),
    ("version: 1\nrules: [\n", 3, "not YAML"),
    ("version: 1\n\trules: []\n", 2, "not YAML"),
    ("version: 1\n  rules: []\n", 2, "not YAML"),
    ("version: 1\nrules: \x07\n", 2, "not YAML: the character U+0007"),
    ("version: 1\n# a\x00\n", 2, "not YAML: the character U+0000"),
    (b"version: 1\n# \xe9\n", 2, "not UTF-8"),
    ("version: 1\n".encode("utf-16"), 1, "not UTF-8"),
    ("version: 1\n---\nversion: 1\n", 2, "a second document"),
    ("version: 1\nrules: &a []\n", 2, 'anchors ("&a")'),
    ("version: 1\nrules: *a\n", 2, 'aliases ("*a")'),
    ("version: !!int 1\n", 1, 'tags ("tag:yaml.org,2002:int")'),
    ("version: !!python/object/apply:os.system [true]\n", 1, "tags"),
    ("version: 1\n<<: {rules: []}\n", 2, 'has no key "<<"'),
    ("version: 1\nrules: " + "[" * 1000, 2, "nested more than 16 deep"),
    ("version: 1\nrules: {}\n", 2, "rules: a list must stand here, not a mapping"),
    ("version: 1\nrules: none\n", 2, 'rules: a list must stand here, not "none"'),
    ("version: 1\nrules:\n- ignore\n", 3, 'rules: a mapping (key: value) must stand here, not "ignore"'),
    ("version: 1\nrules:\n-\n", 3, "rules: a mapping (key: value) must stand here, not nothing"),
]

AGENT: list[Case] = [
    ("version: 1\nnode: a b\n", 2, 'node: "a b" is no name'),
    ("version: 1\nnode: ../etc\n", 2, 'node: "../etc" is no name'),
    ("version: 1\nnode: ''\n", 2, 'node: "" is no name'),
    (f"version: 1\nnode: {'n' * 65}\n", 2, "is no name: up to 64"),
    ("version: 1\ndefault: connect\n", 2, 'default: ignore or {connect: HOST} can stand here, not "connect"'),
    ("version: 1\ndefault: {}\n", 2, "default needs connect"),
    ("version: 1\n" + HOSTS + "default: {connect: lab, ignore: true}\n", 3, 'default has no key "ignore"'),
    ("version: 1\n\ndefault: {connect: lab}\n", 3, 'connect: there is no host "lab": no hosts are declared'),
    # hosts
    ("version: 1\nhosts: [lab]\n", 2, "hosts: a mapping (key: value) must stand here, not a list"),
    ("version: 1\nhosts:\n  lab: lab.example.net\n", 3, "lab: a mapping (key: value) must stand here"),
    ("version: 1\nhosts:\n  lab: {}\n", 3, 'host "lab" needs address: its transport is tls'),
    ("version: 1\nhosts:\n  la/b: {address: a}\n", 3, 'hosts: "la/b" is no name'),
    ("version: 1\nhosts:\n  .lab: {address: a}\n", 3, 'hosts: ".lab" is no name'),
    ("version: 1\nhosts:\n  a: {address: a}\n  a: {address: b}\n", 4, '"a" stands twice, first in line 3'),
    ("version: 1\nhosts: {a: {address: a, addres: b}}\n", 2, 'has no key "addres": did you mean "address"?'),
    ("version: 1\nhosts: {a: {address: 'a b'}}\n", 2, 'address: "a b" is neither a host name nor'),
    ("version: 1\nhosts: {a: {address: ''}}\n", 2, 'address: "" is neither a host name nor'),
    ("version: 1\nhosts: {a: {address: -x}}\n", 2, 'address: "-x" is neither a host name nor'),
    ("version: 1\nhosts: {a: {address: 10.0.0.300}}\n", 2, 'address: "10.0.0.300" is no IP address'),
    ("version: 1\nhosts: {a: {address: '2001:db8::g'}}\n", 2, 'address: "2001:db8::g" is no IP address'),
    ("version: 1\nhosts: {a: {address: '[::1]'}}\n", 2, "write an IPv6 address without brackets"),
    ("version: 1\nhosts: {a: {address: 'lab:3240'}}\n", 2, "the port has its own key"),
    ("version: 1\nhosts: {a: {address: '127.0.0.1%eth0'}}\n", 2, "is neither"),
    ("version: 1\nhosts: {a: {address: b, port: 0}}\n", 2, 'port: "0" is no port number'),
    ("version: 1\nhosts: {a: {address: b, port: 65536}}\n", 2, 'port: "65536" is no port number'),
    ("version: 1\nhosts: {a: {address: b, port: 1e3}}\n", 2, 'port: "1e3" is no port number'),
    ("version: 1\nhosts: {a: {address: b, port: -1}}\n", 2, 'port: "-1" is no port number'),
    ("version: 1\nhosts: {a: {address: b, transport: ssl}}\n", 2, '"ssl" is none of tls, wss or plain'),
    ("version: 1\nhosts: {a: {address: b, transport: PLAIN}}\n", 2, '"PLAIN" is none of tls, wss or plain'),
    ("version: 1\nhosts: {a: {address: b, url: 'wss://a/b'}}\n", 2, "url has no place beside transport tls"),
    ("version: 1\nhosts: {a: {transport: wss}}\n", 2, 'host "a" needs url: its transport is wss'),
    ("version: 1\nhosts: {a: {transport: wss, url: 'wss://a/', port: 1}}\n", 2, "port has no place beside"),
    ("version: 1\nhosts: {a: {transport: wss, url: 'ws://a/'}}\n", 2, '"ws://a/" is no wss://host/path'),
    ("version: 1\nhosts: {a: {transport: wss, url: 'wss:///x'}}\n", 2, "is no wss://host/path"),
    ("version: 1\nhosts: {a: {transport: wss, url: 'wss://a:0/'}}\n", 2, "has no place here"),
    ("version: 1\nhosts: {a: {transport: wss, url: 'wss://a:99999/'}}\n", 2, "is no wss://host/path"),
    ("version: 1\nhosts: {a: {transport: wss, url: 'wss://u:p@a/'}}\n", 2, "has no place here"),
    ("version: 1\nhosts: {a: {transport: wss, url: \"wss://a/\\r\\nX: y\"}}\n", 2, "is no wss://host/path"),
    (HOST + "fingerprint: 'sha256:ab'}}\n", 2, 'fingerprint: "sha256:ab" is no fingerprint'),
    (HOST + f"fingerprint: {'a' * 64}}}}}\n", 2, "is no fingerprint: sha256: and 64 hex digits"),
    (HOST + f"ca: /ca, fingerprint: 'sha256:{'a' * 64}'}}}}\n", 2, 'host "a" has both fingerprint and ca'),
    (HOST + "ca: ca.pem}}\n", 2, 'ca: "ca.pem" is no absolute path'),
    (HOST + 'ca: "/ca\\0.pem"}}\n', 2, r'ca: "/ca\x00.pem" is no absolute path'),
    (HOST + "certificate: /a}}\n", 2, 'host "a" has certificate without key: they go together'),
    (HOST + "key: /a}}\n", 2, 'host "a" has key without certificate: they go together'),
    (HOST + "dead_after: 10}}\n", 2, 'dead_after: "10" is no time from 3s to 10m'),
    (HOST + "dead_after: 2s}}\n", 2, "is no time from 3s to 10m"),
    (HOST + "dead_after: 11m}}\n", 2, "is no time from 3s to 10m"),
    (HOST + "dead_after: 1h}}\n", 2, "is no time from 3s to 10m"),
    (HOST + "dead_after: ٣s}}\n", 2, "is no time from 3s to 10m"),
    (HOST + "transport: plain, ca: /a}}\n", 2, "ca has no place beside transport plain"),
    (HOST + "transport: plain, proxy: 'http://p:1'}}\n", 2, "proxy has no place beside transport plain"),
    (HOST + "proxy: 'https://p:1'}}\n", 2, "proxy: a proxy is spoken to by HTTP"),
    (HOST + "proxy: p:1}}\n", 2, "proxy: no URL of a proxy: write http://host:port"),
    (HOST + "proxy: 'http://p'}}\n", 2, "the port is never implied"),
    (HOST + f"proxy: 'http://p:1/{'a' * 1024}'}}}}\n", 2, "in up to 1024 characters"),
    # rules
    (RULE + "match: {kind: usb}}\n", 4, 'the rule "a" says nothing: it needs connect or ignore'),
    (RULE + "connect: lab, ignore: true}\n", 4, 'the rule "a" has both connect and ignore'),
    (RULE + "ignore: false}\n", 4, 'ignore: only true can stand here, not "false"'),
    (RULE + "ignore: yes}\n", 4, 'ignore: only true can stand here, not "yes"'),
    (RULE + "connect: []}\n", 4, "connect: the list is empty"),
    (RULE + "connect: [lab, lab]}\n", 4, 'connect: "lab" stands twice'),
    (RULE + "connect: [lab,\n backpu]}\n", 5, 'there is no host "backpu": did you mean "backup"?'),
    (RULE + "connect: zzz}\n", 4, 'there is no host "zzz": known are lab and backup'),
    (RULE + "connect: {lab: true}}\n", 4, "connect: one text must stand here, not a mapping"),
    (RULE + "connect: lab,\n node: x}\n", 5, 'a rule has no key "node"'),
    (RULE + "ignore: true}\n- {name: a, ignore: true}\n", 5, 'the rule "a" stands in agent.yaml:4 already'),
    (RULE + "ignore: true}\n- {name: default, ignore: true}\n", 5, "choose another name"),
    (RULE + 'ignore: true}\n- {name: "a\\e[1m", ignore: true}\n', 5, r'name: "a\x1b[1m" is no name'),
    (RULE + "ignore: true}\n- {name: rule 3 of agent.yaml, ignore: true}\n- ignore: true\n", 6,
     'the rule "rule 3 of agent.yaml" stands in agent.yaml:5 already'),
]

MATCH = [
    ("match: }", "match: empty, it would match every device"),
    ("match: {}}", "match: empty, it would match every device"),
    ("match: []}", "match: a mapping (key: value) must stand here, not a list"),
    ("match: all}", 'match: a mapping (key: value) must stand here, not "all"'),
    ("match: {vendr: 10c4}}", 'match has no key "vendr": did you mean "vendor"?'),
    ("match: {vendor: 10c4, vendor: 10c4}}", '"vendor" stands twice'),
    ("match: {vendor: 403}}", 'vendor: "403" is not 4 hex digits'),
    ("match: {vendor: 0x10c4}}", 'vendor: "0x10c4" is not 4 hex digits'),
    ("match: {vendor: '10c4\n\n'}}", r'vendor: "10c4\n" is not 4 hex digits'),
    ("match: {product: ea6*}}", 'product: "ea6*" is not 4 hex digits'),
    ("match: {product: }}", "product: the value is missing"),
    ("match: {product: []}}", "product: the list is empty"),
    ("match: {product: [ea60, [ea61]]}}", "product: one text must stand here, not a list"),
    ("match: {product: {a: b}}}", "product: one text must stand here, not a mapping"),
    ("match: {product: [ea60, EA60]}}", 'product: "EA60" stands twice'),
    ("match: {class: hidd}}", 'class: "hidd" is no class'),
    ("match: {class: 0x}}", 'class: "0x" is no class'),
    ("match: {class: [03, hid]}}", 'class: "hid" stands twice'),
    ("match: {speed: fast}}", 'speed: "fast" is none of low, full, high, super or super+'),
    ("match: {speed: unknown}}", 'speed: "unknown" is none of'),
    ("match: {kind: pci}}", 'kind: "pci" is none of usb or vudc'),
    (f"match: {{serial: '{'*a' * 129}'}}}}", "is longer than 256 characters"),
    ("match: {serial: *}}", "a pattern that begins with * needs quotes"),
    ("match: {serial: *A}}", "a pattern that begins with * needs quotes"),
    (f"match: {{serial: {'a' * 5000}}}}}", "serial: longer than 4096 characters"),
    ("match: {not: }}", "not: empty, nothing is excepted"),
    ("match: {not: {}}}", "not: empty, nothing is excepted"),
    ("match: {not: hid}}", 'not: a mapping (key: value) must stand here, not "hid"'),
    ("match: {not: {not: {class: hid}}}}", 'not has no key "not"'),
    ("match: {not: {clas: hid}}}", 'not has no key "clas": did you mean "class"?'),
    ("match: {not: {vendor: 1}}}", 'vendor: "1" is not 4 hex digits'),
]

USBIPA: list[Case] = [
    ("version: 1\nlisten: yes\n", 2, 'listen: a list must stand here, not "yes"'),
    ("version: 1\nlisten: [3240]\n", 2, "listen: a mapping (key: value) must stand here"),
    ("version: 1\nlisten:\n- {port: 3240}\n", 3, "a listener needs address"),
    ("version: 1\nlisten:\n- {address: eth0}\n", 3, 'address: "eth0" is no IP address'),
    ("version: 1\nlisten:\n- {address: '*', port: usbip}\n", 3, 'port: "usbip" is no port number'),
    ("version: 1\nlisten:\n- {address: '*', transports: []}\n", 3, "transports: the list is empty"),
    ("version: 1\nlisten:\n- {address: '*', transports: wss}\n", 3, '"wss" is none of tls, ws or plain'),
    ("version: 1\nlisten:\n- {address: '*', transport: tls}\n", 3, 'did you mean "transports"?'),
    ("version: 1\nlisten:\n- {address: '*'}\n- {address: 10.0.0.1}\n", 4,
     "listen: * port 3240 in usbipa.yaml:3 listens there already"),
    ("version: 1\nlisten:\n- {address: '::1'}\n- {address: '0:0::1'}\n", 4, "listens there already"),
    ("version: 1\nlisten:\n- {address: '*', key: /k}\n", 3, "a listener has key without certificate"),
    ("version: 1\nlisten:\n- {address: '*', ca: ca.pem}\n", 3, 'ca: "ca.pem" is no absolute path'),
    ("version: 1\nlisten:\n- {address: '*', ca: /ca.pem, transports: plain}\n", 3,
     "ca has no place beside transports plain"),
    ("version: 1\nlisten:\n- {address: '*', dead_after: 10s}\n", 3, 'has no key "dead_after"'),
    ("version: 1\ndead_after: 1s\n", 2, 'dead_after: "1s" is no time'),
    ("version: 1\ndefault: ignore\n", 2, 'default: accept or reject can stand here, not "ignore"'),
    ("version: 1\ndefault: {accept: true}\n", 2, "default: one text must stand here"),
    ("version: 1\nexport_reply: V9\n", 2, 'export_reply: "V9" is none of v9 or v14'),
    (ACCEPT + "address: 10.9.0.0/24}\n", 3, 'the rule "a" says nothing: it needs accept or reject'),
    (ACCEPT + "accept: true, reject: true}\n", 3, 'the rule "a" has both accept and reject'),
    (ACCEPT + "accept: false}\n", 3, 'accept: only true can stand here, not "false"'),
    (ACCEPT + "reject: true, connect: lab}\n", 3, 'a rule has no key "connect"'),
    (ACCEPT + "accept: true, address: 10.9.0.1/24}\n", 3, "has bits set behind its prefix: 10.9.0.0/24"),
    (ACCEPT + "accept: true, address: 10.9.0.0/0.0.0.0}\n", 3, "is no network"),
    (ACCEPT + "accept: true, address: 10.9.0.0/33}\n", 3, "is no network"),
    (ACCEPT + "accept: true, address: 10.9.0.0/}\n", 3, "is no network"),
    (ACCEPT + "accept: true, address: lab}\n", 3, 'address: "lab" is no network'),
    (ACCEPT + "accept: true, address: 'fe80::1%eth0'}\n", 3, "is no network"),
    (ACCEPT + "accept: true, address: '::ffff:10.9.0.0/120'}\n", 3, "peers are compared as IPv4"),
    (ACCEPT + "accept: true, address: []}\n", 3, "address: the list is empty"),
    (ACCEPT + "accept: true, node: }\n", 3, "node: the value is missing"),
    (ACCEPT + "accept: true, node: []}\n", 3, "node: the list is empty"),
    (ACCEPT + "accept: true}\n- {name: a, reject: true}\n", 4,
     'the rule "a" stands in usbipa.yaml:3 already'),
]


def _one_problem(load: Callable[..., object], directory: Path, file: str, case: Case) -> None:
    text, line, message = case
    found = problems_of(load, directory, text)
    assert len(found) == 1, found
    assert found[0].startswith(f"{file}:{line}: "), found
    assert message in found[0]


@pytest.mark.parametrize("text, line, message", TEXTS + AGENT)
def test_agent(tmp_path: Path, text: str | bytes, line: int, message: str) -> None:
    _one_problem(agent, tmp_path, "agent.yaml", (text, line, message))


@pytest.mark.parametrize("text, line, message", TEXTS + USBIPA)
def test_usbipa(tmp_path: Path, text: str | bytes, line: int, message: str) -> None:
    _one_problem(usbipa, tmp_path, "usbipa.yaml", (text, line, message))


@pytest.mark.parametrize("match, message", MATCH)
def test_match_on_both_sides(tmp_path: Path, match: str, message: str) -> None:
    _one_problem(agent, tmp_path, "agent.yaml", (f"{RULE}connect: lab,\n {match}\n", 5, message))
    _one_problem(usbipa, tmp_path, "usbipa.yaml", (f"{ACCEPT}accept: true,\n {match}\n", 4, message))


def test_all_are_reported_in_order(tmp_path: Path) -> None:
    text = "version: 1\nrules:\n- {connect: nowhere, match: {vendr: 1, speed: x}}\n- {ignore: no}\nwhat: 1\n"
    found = problems_of(agent, tmp_path, text, b="version: 3\n", a="rules: [1]\n")
    assert [line.partition(": ")[0] for line in found] == [
        "agent.yaml:3", "agent.yaml:3", "agent.yaml:3", "agent.yaml:4", "agent.yaml:5",
        "agent.d/a.yaml:1", "agent.d/a.yaml:1", "agent.d/b.yaml:1"]
    with pytest.raises(InvalidConfiguration, match="and 7 more$") as caught:
        load_agent_policy(tmp_path / "agent.yaml", tmp_path / "agent.d")
    assert caught.value.exit_status is ExitStatus.INVALID_CONFIGURATION


def test_an_error_beside_it_does_not_hide_a_dangling_host(tmp_path: Path) -> None:
    found = problems_of(agent, tmp_path, RULE + "connect: nowhere, surprise: 1}\n")
    assert len(found) == 2


def test_a_host_that_cannot_be_read_is_no_unknown_host(tmp_path: Path) -> None:
    text = "version: 1\nhosts: {lab: {address: a b}}\nrules: [{connect: lab}]\n"
    assert problems_of(agent, tmp_path, text) == [
        'agent.yaml:2: address: "a b" is neither a host name nor an IP address']


def test_a_file_that_cannot_be_read_makes_no_unknown_hosts(tmp_path: Path) -> None:
    found = problems_of(agent, tmp_path, "version: 1\nrules: [{connect: lab}]\n", hosts="version: [\n")
    assert [line.partition(" ")[0] for line in found] == ["agent.d/hosts.yaml:2:"]


@pytest.mark.parametrize("line", ["node: b", "default: ignore"])
def test_once_over_all_files(tmp_path: Path, line: str) -> None:
    found = problems_of(agent, tmp_path, f"version: 1\n{line}\n", x=f"version: 1\n\n{line}\n")
    assert found == [f"agent.d/x.yaml:3: {line.partition(':')[0]} stands in agent.yaml:2 already"]


@pytest.mark.parametrize("line", ["listen: []", "default: reject", "export_reply: v9", "dead_after: 9s"])
def test_once_over_all_files_of_usbipa(tmp_path: Path, line: str) -> None:
    found = problems_of(usbipa, tmp_path, f"version: 1\n{line}\n", x=f"version: 1\n\n{line}\n")
    assert found == [f"usbipa.d/x.yaml:3: {line.partition(':')[0]} stands in usbipa.yaml:2 already"]


def test_a_host_in_two_files(tmp_path: Path) -> None:
    found = problems_of(agent, tmp_path, "version: 1\n" + HOSTS, x="version: 1\nhosts:\n lab: {address: c}\n")
    assert found == ['agent.d/x.yaml:3: host "lab" stands in agent.yaml:2 already']


def test_missing_main_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration) as caught:
        load_agent_policy(tmp_path / "agent.yaml", tmp_path / "agent.d")
    assert str(caught.value) == f"{tmp_path}/agent.yaml: there is no such file"


def test_what_is_no_regular_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "agent.yaml")
    (tmp_path / "agent.d" / "x.yaml").mkdir(parents=True)
    (tmp_path / "agent.d" / "y.yaml").symlink_to("/dev/zero")
    (tmp_path / "agent.d" / "z.yaml").symlink_to("nowhere")
    with pytest.raises(InvalidConfiguration) as caught:
        load_agent_policy(tmp_path / "agent.yaml", tmp_path / "agent.d")
    assert [(each.file.name, each.message) for each in caught.value.problems] == [
        ("agent.yaml", "this is not a regular file"), ("x.yaml", "cannot be read: Is a directory"),
        ("y.yaml", "this is not a regular file"), ("z.yaml", "there is no such file")]


def test_drop_ins_that_are_no_directory(tmp_path: Path) -> None:
    write(tmp_path, "agent.d", "")
    found = problems_of(agent, tmp_path, "version: 1\n")
    assert found == ["agent.d: cannot be read: Not a directory"]


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    write(tmp_path, "agent.yaml", "version: 1\n")
    os.truncate(tmp_path / "agent.yaml", 1 << 40)
    with pytest.raises(InvalidConfiguration, match="too large: .* 16 MiB in all its files"):
        load_agent_policy_files([tmp_path / "agent.yaml"])


def test_the_bound_is_for_all_files_together(tmp_path: Path) -> None:
    comment = "#" * (MAXIMUM_BYTES // 2) + "\n"
    found = problems_of(agent, tmp_path, "version: 1\n" + comment, x="version: 1\n" + comment)
    assert [line.partition(":")[0] for line in found] == ["agent.d/x.yaml"]


def test_a_hostile_name_does_not_reach_the_terminal(tmp_path: Path) -> None:
    (found,) = problems_of(agent, tmp_path, 'version: 1\n"\\e]0;x\\a": 1\n')
    assert found.isprintable()


def test_a_message_stays_short(tmp_path: Path) -> None:
    (found,) = problems_of(agent, tmp_path, f"version: 1\n{'k' * 1000}: 1\n")
    assert len(found) < 250
