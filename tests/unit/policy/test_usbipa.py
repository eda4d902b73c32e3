"""Whose devices the application side takes, and where it listens."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest

from tests.unit.policy.samples import device, usbipa, write
from usbip_agent.policy.explain import lines, plain
from usbip_agent.policy.usbipa import (
    AcceptPolicy, ExportReply, Listener, ListenerTransport, load_accept_policy_files,
)

CONTRACT = """\
version: 1
listen:
  - {address: "*", port: 3240, transports: [plain]}   # "*" = IPv4 and IPv6
rules:                            # first match wins
  - name: kitchen
    node: pi-*                    # the authenticated node (never matches a plain connection)
    address: 10.9.0.0/24          # the peer's network; one or a list
    match: {vendor: 10c4}         # as on the device side
    accept: true
  - reject: true
default: reject
export_reply: v9                  # v9 (12 bytes, as the series sends) or v14 (8 bytes)
"""


def _why(policy: AcceptPolicy, node: str | None, peer: str, **changes: str) -> tuple[bool, str, str]:
    decision = policy.explain(node=node, peer=ip_address(peer), device=device(**changes))
    return decision.accept, decision.rule, decision.trace[0].why


def test_the_example_of_the_contract(tmp_path: Path) -> None:
    policy = usbipa(tmp_path, CONTRACT)
    assert policy.listen == (Listener("*", 3240, frozenset({ListenerTransport.PLAIN})),)
    assert (policy.default_accept, policy.export_reply) == (False, ExportReply.V9)
    assert _why(policy, "pi-kitchen", "10.9.0.7") == (
        True, "kitchen", 'node "pi-*", address 10.9.0.0/24, vendor 10c4 hold: accept')
    unnamed = "rule 2 of usbipa.yaml"
    assert _why(policy, None, "10.9.0.7") == (
        False, unnamed, "the connection is plain, its node is not authenticated")
    assert _why(policy, "pc", "10.9.0.7") == (False, unnamed, 'node is "pc", not "pi-*"')
    assert _why(policy, "pi-1", "10.9.1.7") == (False, unnamed, "address is 10.9.1.7, not in 10.9.0.0/24")
    assert _why(policy, "pi-1", "10.9.0.7", vendor="0403") == (False, unnamed, "vendor is 0403, not 10c4")


def test_trace(tmp_path: Path) -> None:
    decision = usbipa(tmp_path, CONTRACT).explain(node=None, peer=ip_address("::1"), device=device())
    assert lines(decision) == (
        "usbipa.yaml:5   kitchen: no, the connection is plain, its node is not authenticated",
        "usbipa.yaml:10  rule 2 of usbipa.yaml: yes, every device: reject",
        'reject (by "rule 2 of usbipa.yaml")')
    assert plain(decision)["verdict"] == "reject"
    assert plain(decision)["hosts"] == []


def test_decide_says_the_deciding_step_only(tmp_path: Path) -> None:
    decision = usbipa(tmp_path, CONTRACT).decide(node=None, peer=ip_address("::1"), device=device())
    assert [step.why for step in decision.trace] == ["every device: reject"]
    assert decision.why == "every device: reject"


@pytest.mark.parametrize("node", ["'*'", "['', '*']", "'[*]*'", "'?'"])
def test_no_node_pattern_matches_a_plain_connection(tmp_path: Path, node: str) -> None:
    policy = usbipa(tmp_path, f"version: 1\nrules: [{{node: {node}, accept: true}}]\n")
    assert not policy.decide(node=None, peer=ip_address("127.0.0.1"), device=device()).accept


def test_an_ipv4_peer_on_an_ipv6_socket_is_an_ipv4_peer(tmp_path: Path) -> None:
    policy = usbipa(tmp_path, "version: 1\nrules: [{address: [192.0.2.9, 10.9.0.0/24], accept: true}]\n")
    for peer in ("10.9.0.7", "::ffff:10.9.0.7", "192.0.2.9", "::ffff:192.0.2.9"):
        assert policy.decide(node=None, peer=ip_address(peer), device=device()).accept, peer
    for peer in ("10.9.1.7", "::ffff:10.9.1.7", "192.0.2.8", "::10.9.0.7", "2001:db8::1"):
        assert not policy.decide(node=None, peer=ip_address(peer), device=device()).accept, peer
    decision = policy.explain(node=None, peer=ip_address("::ffff:10.9.1.7"), device=device())
    assert decision.trace[0].why == "address is 10.9.1.7, not in 192.0.2.9/32 or 10.9.0.0/24"


def test_ipv6_networks(tmp_path: Path) -> None:
    policy = usbipa(tmp_path, "version: 1\nrules: [{address: ['2001:db8::/32', 'fe80::1'], accept: true}]\n")
    expected = {"2001:db8:9::1": True, "fe80::1%3": True, "fe80::2": False, "10.0.0.1": False}
    for peer, accept in expected.items():
        assert policy.decide(node=None, peer=ip_address(peer), device=device()).accept is accept, peer


def test_any_of_several_nodes(tmp_path: Path) -> None:
    policy = usbipa(tmp_path, "version: 1\nrules: [{node: [pc, pi-*], accept: true}]\n")
    assert [policy.decide(node=node, peer=ip_address("::1"), device=device()).accept
            for node in ("pc", "pi-1", "PC", "pc2", "")] == [True, True, False, False, False]


def test_default_accept_and_reply(tmp_path: Path) -> None:
    policy = usbipa(tmp_path, "version: 1\n", x="version: 1\ndefault: accept\nexport_reply: v14\n")
    assert policy.export_reply is ExportReply.V14
    decision = policy.decide(node=None, peer=ip_address("::1"), device=device())
    assert (decision.accept, decision.rule, decision.why) == (True, "default", "no rule matches: accept")
    assert decision.trace[0].location == "usbipa.d/x.yaml:2"


def test_nothing_said_is_nothing_taken_and_nowhere_listened(tmp_path: Path) -> None:
    for text in ("version: 1\n", "version: 1\nlisten:\nrules:\n", "version: 1\nlisten: []\nrules: []\n"):
        policy = usbipa(tmp_path, text)
        assert policy.listen == ()
        assert not policy.decide(node="pi", peer=ip_address("::1"), device=device()).accept


def test_listeners(tmp_path: Path) -> None:
    policy = usbipa(tmp_path, """\
version: 1
listen:
- {address: "*"}
- {address: 0.0.0.0, port: 1, transports: [tls, ws]}
- {address: "::", port: 1, transports: ws}
- {address: 127.0.0.1, port: 2}
- {address: 127.0.0.2, port: 2}
- {address: "fe80::1%eth0", port: 2}
""")
    tls, ws = ListenerTransport.TLS, ListenerTransport.WS
    assert policy.listen == (
        Listener("*", 3240, frozenset({tls})), Listener("0.0.0.0", 1, frozenset({tls, ws})),
        Listener("::", 1, frozenset({ws})), Listener("127.0.0.1", 2, frozenset({tls})),
        Listener("127.0.0.2", 2, frozenset({tls})), Listener("fe80::1%eth0", 2, frozenset({tls})))


def test_named_files_alone(tmp_path: Path) -> None:
    file = write(tmp_path, "one.yaml", "version: 1\ndefault: accept\n")
    assert load_accept_policy_files([file]).default_accept


def test_a_listener_of_a_pki(tmp_path: Path) -> None:
    policy = usbipa(tmp_path, """\
version: 1
dead_after: 30s
listen:
- {address: 10.0.0.1, transports: [tls, plain], ca: /ca.pem, certificate: /c.pem, key: /k.pem}
- {address: 10.0.0.2}
""")
    first, second = policy.listen
    assert (first.ca, first.certificate, first.key) == (Path("/ca.pem"), Path("/c.pem"), Path("/k.pem"))
    assert (second.ca, second.certificate, second.key) == (None, None, None)
    assert policy.dead_after == 30.0
    assert usbipa(tmp_path, "version: 1\n").dead_after == 10.0
