"""usbip-agent join, from the code to the entry in force: a host on the loopback, a daemon on a bus."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from tests.component.bus.private_bus import FakeAgent, PrivateBus, serving
from tests.component.identity.loopback_host import LoopbackHost

from usbip_agent.cli import join as command
from usbip_agent.cli.agent import PROGRAM
from usbip_agent.cli.program import run_program
from usbip_agent.errors import (
    ConfigurationFault, Fault, IdentityFault, RefusedFault, UnreachableFault, UsageFault)
from usbip_agent.identity.join_code import JoinCode, encode
from usbip_agent.identity.own import load_identity
from usbip_agent.names import AGENT, Service
from usbip_agent.policy.agent import Host, load_agent_policy
from usbip_agent.transport.stream import Stream


@dataclass
class Node:
    """A node that joins the host of the test."""

    service: Service
    host: LoopbackHost
    dialled: list[Host]
    fails: Exception | None = None

    async def join(self, code: JoinCode, **options: Any) -> None:
        """In a thread, as the command has a loop of its own."""
        await asyncio.to_thread(command.join, self.service, code, self._dial, **options)

    async def _dial(self, host: Host) -> Stream:
        self.dialled.append(host)
        if self.fails is not None:
            raise self.fails
        return await self.host.dial()

    @property
    def hosts(self) -> tuple[Host, ...]:
        return load_agent_policy(self.service.configuration, self.service.drop_ins).hosts

    @property
    def files(self) -> set[str]:
        return {path.name for path in self.service.drop_ins.glob("*")}


@pytest.fixture
def node(tmp_path: Path, host: LoopbackHost, monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/no-bus")
    (tmp_path / "agent.yaml").write_text("version: 1\nnode: anything\n")
    service = replace(AGENT, configuration=tmp_path / "agent.yaml", drop_ins=tmp_path / "agent.d",
                      state_directory=tmp_path / "node-state")
    return Node(service, host, [])


async def test_it_joins(node: Node, host: LoopbackHost, capsys: pytest.CaptureFixture[str]) -> None:
    code = host.invite()
    await node.join(code)
    identity = load_identity(node.service.state_directory)
    assert identity is not None
    assert host.registrar.known.name_of(identity.fingerprint) == "pi-kitchen"
    [entry] = node.hosts
    assert (entry.name, entry.address, entry.port, entry.fingerprint) == (
        "lab", "127.0.0.1", host.port, code.fingerprint)
    assert node.dialled == [entry], "what is dialled is what will be"
    said = capsys.readouterr()
    assert said.out == (f"enrolled as pi-kitchen at lab (127.0.0.1:{host.port}); "
                        "in a rule, write: connect: lab\n")
    assert "it will use the host once it runs" in said.err and said.err.count("\n") == 1


async def test_the_daemon_reloads(
        node: Node, host: LoopbackHost, bus: PrivateBus, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", bus.address)
    agent = FakeAgent()
    async with serving(bus, agent):
        await node.join(host.invite())
    assert agent.asked == [("reload",)] and capsys.readouterr().err == ""


async def test_a_daemon_that_does_not_reload(
        node: Node, host: LoopbackHost, bus: PrivateBus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", bus.address)
    async with serving(bus, FakeAgent(fails=ConfigurationFault("bad"))):
        with pytest.raises(Fault, match="enrolled, but usbip-agent has not reloaded: bad"):
            await node.join(host.invite())
    assert node.files == {"lab.yaml"}


async def test_by_another_name_and_through_a_proxy(node: Node, host: LoopbackHost) -> None:
    await node.join(host.invite(), name="upstairs", proxy="http://proxy:3128")
    [entry] = node.hosts
    assert entry.name == "upstairs" and str(entry.proxy) == "http://proxy:3128"
    assert node.files == {"upstairs.yaml"}


async def test_joining_again(node: Node, host: LoopbackHost) -> None:
    await node.join(host.invite())
    before = load_identity(node.service.state_directory)
    await node.join(host.invite())
    assert load_identity(node.service.state_directory) == before
    assert len(host.registrar.nodes()) == len(node.hosts) == 1


@pytest.mark.parametrize("fault", [
    UnreachableFault("connection refused"), RefusedFault("another certificate")])
async def test_a_host_that_is_not_there_costs_no_code(node: Node, host: LoopbackHost, fault: Fault) -> None:
    code = host.invite()
    node.fails = fault
    with pytest.raises(type(fault), match=fault.what) as caught:
        await node.join(code)
    if isinstance(fault, UnreachableFault):
        assert caught.value.what == f"{code.where}: connection refused" and "--proxy" in caught.value.hint
    assert node.files == set() and node.hosts == ()
    node.fails = None
    await node.join(code)
    assert len(node.hosts) == 1


async def test_a_code_that_is_refused_leaves_nothing(node: Node, host: LoopbackHost) -> None:
    code = host.invite()
    with pytest.raises(RefusedFault, match="not valid") as caught:
        await node.join(replace(code, secret=bytes(20)))
    assert "usbipa enroll pi-kitchen" in caught.value.hint
    assert node.files == set() and node.hosts == ()


async def test_what_is_wrong_here_is_found_before_the_code_is_used(
        node: Node, host: LoopbackHost, tmp_path: Path) -> None:
    code = host.invite()
    with pytest.raises(UsageFault):
        await node.join(code, proxy="https://x")
    (tmp_path / "agent.yaml").write_text("version: 1\nrulez: []\n")
    with pytest.raises(ConfigurationFault) as caught:
        await node.join(code)
    assert "shows every error" in caught.value.hint
    (tmp_path / "agent.yaml").write_text("version: 1\n")
    node.service.state_directory.mkdir()
    (node.service.state_directory / "identity.key").write_text("damaged")
    with pytest.raises(IdentityFault):
        await node.join(code)
    assert node.dialled == [] and node.files == set()
    (node.service.state_directory / "identity.key").unlink()
    await node.join(code)


async def test_a_host_that_was_set_up_anew(node: Node, host: LoopbackHost) -> None:
    await node.join(host.invite())
    anew = replace(host.invite(), fingerprint="sha256:" + "77" * 32)
    with pytest.raises(UsageFault, match="another certificate"):
        await node.join(anew)
    assert len(node.dialled) == 1
    await node.join(anew, replace=True)
    assert node.hosts[0].fingerprint == anew.fingerprint


@pytest.mark.parametrize(("uid", "words", "status", "why"), [
    (0, ["nonsense"], 2, "no join code"), (0, [], 2, "CODE"), (0, [""], 2, "empty"),
    (0, ["usbip1-AAAA"], 2, "damaged"), (1000, ["VALID"], 1, "sudo usbip-agent join")])
def test_what_ends_at_once(
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], uid: int, words: list[str],
        status: int, why: str) -> None:
    code = JoinCode("lab", 3240, "sha256:" + "0" * 64, bytes(20), "pi", "lab")
    monkeypatch.setattr(command.os, "geteuid", lambda: uid)  # type: ignore[attr-defined]
    words = [encode(code) if word == "VALID" else word for word in words]
    assert run_program(PROGRAM, ["join", *words]) == status
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and why in said.err
    assert encode(code) not in said.err


def test_the_options_reach_it(monkeypatch: pytest.MonkeyPatch) -> None:
    code = JoinCode("lab", 3240, "sha256:" + "0" * 64, bytes(20), "pi", "lab")
    asked: list[Any] = []

    def note(service: Service, code: JoinCode, dial: Callable[[Host], Awaitable[Stream]],
             **options: Any) -> None:
        asked.append((service, code, options))

    monkeypatch.setattr(command.os, "geteuid", lambda: 0)  # type: ignore[attr-defined]
    monkeypatch.setattr(command, "join", note)
    words = ["join", encode(code), "--proxy", "http://p:1", "--name", "up", "--replace"]
    assert run_program(PROGRAM, words) == 0
    assert asked == [(AGENT, code, {"name": "up", "proxy": "http://p:1", "replace": True})]
