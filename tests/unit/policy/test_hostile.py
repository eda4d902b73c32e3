"""Whatever stands in a file: either it is understood wholly, or nothing of it becomes a policy."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.policy.samples import agent, usbipa
from usbip_agent.policy.agent import ConnectRule, Host
from usbip_agent.policy.keys import keys_of
from usbip_agent.policy.match import MATCH_KEYS
from usbip_agent.policy.problems import InvalidConfiguration
from usbip_agent.policy.usbipa import AcceptRule

KEYS = st.text(string.ascii_lowercase + "_", min_size=1, max_size=12)
KNOWN_MATCH = {"not"} | {key.name for key in MATCH_KEYS}
ANY_DIRECTORY = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _known(kind: type) -> set[str]:
    return {key.name for key in keys_of(kind)}


@ANY_DIRECTORY
@given(KEYS)
def test_an_unknown_key_never_yields_a_policy(tmp_path: Path, key: str) -> None:
    places = (
        ("version: 1\n%s: x\n", {"version", "node", "hosts", "rules", "default"}),
        ("version: 1\nhosts: {a: {address: b, %s: x}}\n", _known(Host)),
        ("version: 1\nrules: [{ignore: true, %s: x}]\n", _known(ConnectRule)),
        ("version: 1\nrules: [{ignore: true, match: {kind: usb, %s: x}}]\n", KNOWN_MATCH),
        ("version: 1\nrules: [{ignore: true, match: {not: {kind: usb, %s: x}}}]\n", KNOWN_MATCH),
    )
    for text, known in places:
        if key not in known:
            with pytest.raises(InvalidConfiguration):
                agent(tmp_path, text % key)
    if key not in _known(AcceptRule):
        with pytest.raises(InvalidConfiguration):
            usbipa(tmp_path, f"version: 1\nrules: [{{accept: true, {key}: x}}]\n")


YAMLISH = st.text("{}[]:,-#&*!|>'\"%@`?\n\t ab", max_size=60).map("version: 1\n{}".format)


@ANY_DIRECTORY
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode) | YAMLISH.map(str.encode))
def test_any_bytes_are_a_policy_or_problems(tmp_path: Path, data: bytes) -> None:
    for load in (agent, usbipa):
        try:
            load(tmp_path, data)
        except InvalidConfiguration as invalid:
            assert invalid.problems
            for problem in invalid.problems:
                assert str(problem).isprintable()
                assert 0 <= problem.line <= len(data) + 1


def test_an_alias_bomb_is_not_expanded(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}]" for n in range(1, 60)]
    with pytest.raises(InvalidConfiguration, match="anchors"):
        agent(tmp_path, "version: 1\n" + "\n".join(lines))


def test_many_errors_with_many_candidates_end_soon(tmp_path: Path) -> None:
    hosts = "".join(f"  host{number}: {{address: a}}\n" for number in range(2000))
    rules = "".join(f"- {{connect: hosd{number}x}}\n" for number in range(2000))
    with pytest.raises(InvalidConfiguration) as caught:
        agent(tmp_path, f"version: 1\nhosts:\n{hosts}rules:\n{rules}")
    assert len(caught.value.problems) == 2000
    assert all(len(problem.message) < 300 for problem in caught.value.problems)
