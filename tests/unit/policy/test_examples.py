"""The shipped configurations are valid, decide nothing, and their commented examples are valid too."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

from tests.unit.policy.samples import agent, device, usbipa
from usbip_agent.policy.agent import load_agent_policy
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


def _examples(file: Path) -> str:
    """The file with its example lines, a ``#`` and three or more blanks below a section, made real."""
    lines, in_section = [], False
    for line in file.read_text(encoding="utf-8").splitlines():
        in_section = line in ("hosts:", "rules:", "listen:") or in_section and line.startswith("#   ")
        lines.append(line.replace("#", " ", 1) if in_section and line.startswith("#   ") else line)
    return "\n".join(lines)
