"""The shipped configurations are valid, decide nothing, and their commented examples are valid too."""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from tests.unit.policy.samples import agent, device, usbipa
from usbip_agent.policy.agent import load_agent_policy
from usbip_agent.policy.rules import BUILT_IN
from usbip_agent.policy.usbipa import load_accept_policy

ETC = Path(__file__).parents[3] / "etc"


def test_agent_as_shipped_exports_nothing(tmp_path: Path) -> None:
    policy = load_agent_policy(ETC / "usbip-agent/agent.yaml", tmp_path / "agent.d")
    assert (policy.hosts, policy.rules, policy.default_hosts) == ((), (), ())
    assert not policy.decide(device()).connects


def test_usbipa_as_shipped_listens_nowhere_and_takes_nothing(tmp_path: Path) -> None:
    policy = load_accept_policy(ETC / "usbipa/usbipa.yaml", tmp_path / "usbipa.d")
    assert (policy.listen, policy.rules) == ((), ())
    assert not policy.decide(node="pi", peer=ip_address("127.0.0.1"), device=device()).accept


def test_the_commented_examples(tmp_path: Path) -> None:
    policy = agent(tmp_path, _examples(ETC / "usbip-agent/agent.yaml"))
    assert {host.name for host in policy.hosts} == {"lab", "backup", "bench", "far"}
    assert len(policy.rules) == 2
    accept = usbipa(tmp_path, _examples(ETC / "usbipa/usbipa.yaml"))
    assert (len(accept.listen), len(accept.rules)) == (1, 2)


@pytest.mark.parametrize("text", [
    "node: pi", "default: {connect: lab}\nhosts: {lab: {address: lab, transport: plain}}"])
def test_a_drop_in_may_say_what_agent_as_shipped_leaves_open(tmp_path: Path, text: str) -> None:
    shipped = (ETC / "usbip-agent/agent.yaml").read_text(encoding="utf-8")
    assert agent(tmp_path, shipped, mine=f"version: 1\n{text}\n") != agent(tmp_path / "alone", shipped)


@pytest.mark.parametrize("text", [
    "listen: [{address: '*'}]", "default: accept", "export_reply: v14", "dead_after: 20s"])
def test_a_drop_in_may_say_what_usbipa_as_shipped_leaves_open(tmp_path: Path, text: str) -> None:
    shipped = (ETC / "usbipa/usbipa.yaml").read_text(encoding="utf-8")
    assert usbipa(tmp_path, shipped, mine=f"version: 1\n{text}\n") != usbipa(tmp_path / "alone", shipped)


def test_the_defaults_that_are_shown_are_those_built_in(tmp_path: Path) -> None:
    node = agent(tmp_path, _shown_defaults(ETC / "usbip-agent/agent.yaml"))
    assert node.default_location != BUILT_IN
    assert replace(node, default_location=BUILT_IN) == agent(tmp_path, "version: 1\n")
    host = usbipa(tmp_path, _shown_defaults(ETC / "usbipa/usbipa.yaml"))
    assert host.default_location != BUILT_IN
    assert replace(host, default_location=BUILT_IN) == usbipa(tmp_path, "version: 1\n")


def _shown_defaults(file: Path) -> str:
    """The file with the defaults that it shows in comments made real."""
    text = file.read_text(encoding="utf-8")
    return re.sub(r"^# (default|dead_after|export_reply): ", r"\1: ", text, flags=re.MULTILINE)


def _examples(file: Path) -> str:
    """The file with its example lines, a ``#`` and three or more blanks below a section, made real."""
    lines, in_section = [], False
    for line in file.read_text(encoding="utf-8").splitlines():
        in_section = line in ("hosts:", "rules:", "listen:") or in_section and line.startswith("#   ")
        lines.append(line.replace("#", " ", 1) if in_section and line.startswith("#   ") else line)
    return "\n".join(lines)
