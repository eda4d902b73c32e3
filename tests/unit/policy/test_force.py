"""``force``: a rule that overrides the safety interlock."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.policy.samples import HOSTS, agent, device, problems_of

RULE = "version: 1\n" + HOSTS + "rules:\n- {name: a, "


@pytest.mark.parametrize(("written", "force"), [
    ("", False), (", force: false", False), (", force: true", True)])
def test_a_decision_says_whether_the_rule_forces(tmp_path: Path, written: str, force: bool) -> None:
    policy = agent(tmp_path, RULE + "connect: lab" + written + "}\n")
    assert policy.decide(device()).force is force
    assert policy.explain(device()).force is force


def test_the_default_forces_nothing(tmp_path: Path) -> None:
    policy = agent(tmp_path, "version: 1\n" + HOSTS + "default: {connect: lab}\n")
    assert policy.decide(device()).force is False


@pytest.mark.parametrize(("written", "problem"), [
    ("connect: lab, force: yes}\n", 'agent.yaml:4: force: true or false can stand here, not "yes"'),
    ("connect: lab, force: [true]}\n", "agent.yaml:4: force: one text must stand here, not a list"),
    ("connect: lab, force: }\n",
     'agent.yaml:4: force: the value is missing (an empty text is written "")'),
    ("ignore: true, force: true}\n", 'agent.yaml:4: the rule "a" ignores: there is nothing to force'),
])
def test_what_is_wrong_with_it(tmp_path: Path, written: str, problem: str) -> None:
    assert problems_of(agent, tmp_path, RULE + written) == [problem]
