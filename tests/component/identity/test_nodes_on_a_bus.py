"""usbipa enroll, nodes and revoke, as processes, and the desk of a real registrar behind the bus."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.component.bus.private_bus import FakeAgent, PrivateBus, call, caller, serving
from tests.component.identity.loopback_host import LoopbackHost, registrar_in
from tests.unit.identity.samples import FINGERPRINT, certificate, fingerprint

from usbip_agent.bus.marshalling import variant
from usbip_agent.bus.operations import EnrolmentOperations
from usbip_agent.bus.standard import CallError
from usbip_agent.errors import Fault, UnknownNodeFault
from usbip_agent.identity import desk as desk_module
from usbip_agent.identity.codes import Moment
from usbip_agent.identity.desk import EnrolmentDesk
from usbip_agent.identity.join_code import parse
from usbip_agent.names import USBIPA

ROOT = Path(__file__).parents[3]


class Usbipa(FakeAgent):
    """A fake daemon with a real desk."""

    def __init__(self, state: Path) -> None:
        super().__init__()
        self.registrar = registrar_in(state)
        self.ended: list[str] = []
        self._desk = EnrolmentDesk(self.registrar, port=lambda: 3240, end_imports=self._end)

    async def _end(self, node: str) -> None:
        assert node not in self.registrar.known, "refused first, then ended"
        self.ended.append(node)

    async def enroll(self, node: str, host: str | None, port: int | None) -> str:
        return await self._desk.enroll(node, host, port)

    def nodes(self) -> Any:
        return self._desk.nodes()

    async def revoke(self, node: str) -> None:
        await self._desk.revoke(node)


@pytest.fixture
def usbipa(tmp_path: Path) -> Usbipa:
    return Usbipa(tmp_path / "state")


@dataclass(frozen=True)
class Outcome:
    status: int
    out: str
    err: str


async def run(bus: PrivateBus, *words: str) -> Outcome:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "usbip_agent.cli.usbipa", *words, cwd=ROOT,
        env={**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": bus.address},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    out, err = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode is not None
    return Outcome(process.returncode, out.decode(), err.decode())


def test_the_desk_is_what_the_bus_asks_for(usbipa: Usbipa) -> None:
    desk: EnrolmentOperations = EnrolmentDesk(usbipa.registrar, port=lambda: 1, end_imports=usbipa._end)
    assert isinstance(desk, EnrolmentOperations) and isinstance(usbipa, EnrolmentOperations)
    assert not isinstance(FakeAgent(), EnrolmentOperations)


async def test_from_enroll_to_revoke(bus: PrivateBus, usbipa: Usbipa, host: LoopbackHost) -> None:
    host.registrar = usbipa.registrar
    async with serving(bus, usbipa, usbipa=True):
        none = await run(bus, "nodes")
        enroll = await run(bus, "enroll", "pi-kitchen", "--host", "127.0.0.1", "-t", str(host.port))
        code = parse(enroll.out)
        host.now = Moment.now()
        await host.join(code, certificate("pi"))
        usbipa.registrar.known.seen("pi-kitchen", "192.0.2.7:40000", int(host.now.wall * 1_000_000))
        listed, shown = await run(bus, "nodes", "--json"), await run(bus, "nodes")
        again = await run(bus, "enroll", "pi-kitchen", "--json")
        revoked, unknown = await run(bus, "revoke", "pi-kitchen"), await run(bus, "revoke", "pi-kitchen")
    assert none == Outcome(0, "no nodes are enrolled: usbipa enroll NODE\n", "")
    assert (enroll.status, enroll.err, enroll.out.count("\n")) == (0, "", 1)
    assert (code.where, code.node, code.host) == (f"127.0.0.1:{host.port}", "pi-kitchen", "lab")
    assert code.fingerprint == FINGERPRINT
    [node] = json.loads(listed.out)["nodes"]
    assert list(node) == ["name", "fingerprint", "enrolled", "last_seen", "last_peer"]
    assert (node["name"], node["fingerprint"]) == ("pi-kitchen", fingerprint("pi"))
    assert node["enrolled"] > 0 and node["last_peer"] == "192.0.2.7:40000"
    assert shown.out.splitlines()[1].split()[0] == "pi-kitchen" and fingerprint("pi") in shown.out
    assert json.loads(again.out)["version"] == 1 and json.loads(again.out)["replaces"] is True
    assert parse(json.loads(again.out)["code"]).port == 3240
    assert (revoked.status, revoked.out) == (0, "pi-kitchen: revoked, and its imports are ended\n")
    assert unknown.status == UnknownNodeFault.exit_status
    assert unknown.err == ("usbipa: no node pi-kitchen is enrolled here "
                           "(usbipa nodes shows those that are)\n")
    assert usbipa.ended == ["pi-kitchen"]


async def test_a_code_for_a_node_that_is_enrolled_says_so(bus: PrivateBus, usbipa: Usbipa) -> None:
    usbipa.registrar.known.add("pi", certificate("pi"), 1)
    async with serving(bus, usbipa, usbipa=True):
        said = await run(bus, "enroll", "pi", "--host", "wss://lab.example.net/usbip")
    assert "takes its place" in said.err and said.err.count("\n") == 1
    assert parse(said.out).url == "wss://lab.example.net/usbip"


async def test_by_default_this_machine_is_named(usbipa: Usbipa, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = EnrolmentDesk(usbipa.registrar, port=lambda: 3241, end_imports=usbipa._end)
    for known_as, expected in (("lab.example.net", "lab.example.net"), ("localhost.localdomain", "lab"),
                               ("not a name", "lab")):
        monkeypatch.setattr(desk_module.socket, "getfqdn", lambda: known_as)  # type: ignore[attr-defined]
        monkeypatch.setattr(desk_module.socket, "gethostname", lambda: "lab")  # type: ignore[attr-defined]
        code = parse(await desk.enroll("pi", None, None))
        assert (code.address, code.port) == (expected, 3241)
    assert desk_module.entry_name() == "lab"
    monkeypatch.setattr(desk_module.socket, "gethostname", lambda: "-?-")  # type: ignore[attr-defined]
    assert desk_module.entry_name() == "host"


async def test_a_host_that_takes_no_tls_itself_may_be_behind_a_url(usbipa: Usbipa) -> None:
    def nowhere() -> int:
        raise Fault("no listener takes tls")

    desk = EnrolmentDesk(usbipa.registrar, port=nowhere, end_imports=usbipa._end)
    assert parse(await desk.enroll("pi", "wss://lab.example.net/usbip", None)).url
    assert parse(await desk.enroll("pi", "lab", 3241)).port == 3241
    with pytest.raises(Fault, match="takes tls"):
        await desk.enroll("pi", "lab", None)


@pytest.mark.parametrize("words", [
    ["enroll"], ["enroll", "../x"], ["enroll", "a b"], ["enroll", "pi", "-t", "0"],
    ["enroll", "pi", "--host", ""], ["revoke"], ["revoke", "\x1b"], ["nodes", "pi"]])
async def test_bad_usage(bus: PrivateBus, words: list[str]) -> None:
    said = await run(bus, *words)
    assert (said.status, said.out, said.err.count("\n")) == (2, "", 1) and "\x1b" not in said.err


@pytest.mark.parametrize("words", [["enroll", "pi"], ["nodes"], ["revoke", "pi"]])
async def test_only_root_and_only_where_nodes_are_enrolled(
        bus: PrivateBus, usbipa: Usbipa, words: list[str]) -> None:
    async with serving(bus, usbipa, usbipa=True, privileged_uid=os.getuid() + 1):
        refused = await run(bus, *words)
    async with serving(bus, FakeAgent(), usbipa=True):
        unable = await run(bus, *words)
    absent = await run(bus, *words)
    assert refused.status == 1 and "only root may call" in refused.err
    assert unable.status == 69 and "enrols no nodes" in unable.err
    assert absent.status == 69 and "usbipa is not running" in absent.err
    assert usbipa.registrar.nodes() == () and not usbipa.ended


@pytest.mark.parametrize(("node", "options"), [
    ("../x", {}), ("pi", {"hots": variant("s", "x")}), ("pi", {"host": variant("u", 1)}),
    ("pi", {"port": variant("u", 0)}), ("pi", {"host": variant("s", "a b")})])
async def test_calls_that_make_no_sense(
        bus: PrivateBus, usbipa: Usbipa, node: str, options: dict[str, Any]) -> None:
    async with serving(bus, usbipa, usbipa=True), caller(bus) as connection:
        with pytest.raises(CallError) as caught:
            await call(connection, USBIPA.bus_name, USBIPA.manager_path, f"{USBIPA.manager_interface}.Enroll",
                       "sa{sv}", node, options)
    assert caught.value.dbus_name == "org.usbip.Error.InvalidArgument"
