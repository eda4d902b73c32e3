"""doctor's judgements, apart from its looking."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path

import pytest
from tests.unit.cli.running import Runner
from usbip_agent.cli import doctor_agent, doctor_usbipa, modules
from usbip_agent.cli.doctor_machine import judge_clock, judge_fault, judge_user
from usbip_agent.cli.findings import Finding, Outcome, exit_status_of, failed, ok, warning
from usbip_agent.cli.listening import ListeningSocket, listening_sockets, owner_of
from usbip_agent.device import Speed
from usbip_agent.errors import (
    DeadlineFault, ExitStatus, Fault, ProtocolFault, RefusedFault, UnavailableFault, UnreachableFault)
from usbip_agent.kernel.vhci import Hub, PortRow, PortState
from usbip_agent.names import AGENT, USBIPA
from usbip_agent.policy.hosts import Host
from usbip_agent.policy.proxy import Proxy
from usbip_agent.policy.transports import Transport
from usbip_agent.policy.usbipa import AcceptPolicy, Listener, ListenerTransport
from usbip_agent.report import DeviceReport, ExportState
from usbip_agent.transport.dial import Dialler
from usbip_agent.transport.stream import Stream

UNAVAILABLE = failed("module", "missing", "modprobe", ExitStatus.UNAVAILABLE)


@pytest.mark.parametrize(("findings", "status"), [
    ([], 0), ([ok("a", "b"), warning("a", "b", "c")], 0), ([failed("a", "b", "c")], 1),
    ([failed("a", "b", "c"), UNAVAILABLE], 69), ([ok("a", "b"), UNAVAILABLE], 69)])
def test_exit_status(findings: list[Finding], status: int) -> None:
    assert exit_status_of(findings) == status


@pytest.mark.parametrize("name", ["usbip-agent", "usbipa"])
def test_without_anything(command: Runner, name: str) -> None:
    """No module, no daemon, perhaps no configuration: all of it is said, and how to help."""
    outcome = command(name, "doctor")
    assert outcome.status == 69 and outcome.is_one_line(name)
    said = command(name, "doctor", "--json")
    assert said.status == 69 and said.json["version"] == 1
    checks = {check["name"]: check for check in said.json["checks"]}
    assert {"module", "configuration", "service", "user", "clock", "versions"} <= set(checks)
    for check in checks.values():
        assert set(check) == {"name", "outcome", "what", "cure"}
        assert check["outcome"] in ("ok", "warning", "failed")
        assert bool(check["cure"]) == (check["outcome"] != "ok")


LAB = Host("lab", "lab.example.net", transport=Transport.PLAIN)
WEB = Host("web", transport=Transport.WSS, url="wss://lab.example.net/usbip")
PROXIED = Host("lab", "lab.example.net", proxy=Proxy("proxy", 3128, "me", "secret"))


@pytest.mark.parametrize(("host", "fault", "cure"), [
    (LAB, UnreachableFault("cannot resolve lab.example.net: unknown"), "getent hosts lab.ex"),
    (WEB, UnreachableFault("cannot resolve lab.example.net: no answer for 10 s"), "getent"),
    (LAB, UnreachableFault("connection refused"), "start usbipa there"),
    (LAB, UnreachableFault("no answer for 10 s"), "firewall"),
    (LAB, UnreachableFault("network unreachable"), "ip route"),
    (LAB, UnreachableFault("a firewall of this machine forbids it"), "nft"),
    (PROXIED, UnreachableFault("the proxy proxy port 3128: connection refused"), "the proxy of lab"),
    (PROXIED, UnreachableFault("the proxy proxy port 3128 cannot reach lab (502)"), "may the proxy"),
    (PROXIED, RefusedFault("the proxy says 407", hint="proxy: http://user:…"), "http://user"),
    (WEB, UnreachableFault("lab.example.net cannot reach usbipa behind it (502)"), "start usbipa"),
    (WEB, RefusedFault("the certificate of lab.example.net is not accepted: expired"), "trust who signed it"),
    (LAB, ProtocolFault("the other side does not speak TLS on this port"), "is it usbipa"),
    (LAB, ProtocolFault("what nobody has foreseen"), "journalctl -u usbipa")])
def test_why_a_host_is_not_reached(host: Host, fault: Fault, cure: str) -> None:
    finding = doctor_agent.judge_host(host, fault, True)
    assert (finding.outcome, finding.name) == (Outcome.FAILED, f"host {host.name}")
    assert fault.what in finding.what and cure in finding.cure
    assert "secret" not in finding.what + finding.cure


def test_hosts_that_answer() -> None:
    assert doctor_agent.judge_host(LAB, "plain", False) == ok(
        "host lab", "lab.example.net port 3240 answers by plain")
    assert doctor_agent.judge_host(WEB, "wss", True).what == "wss://lab.example.net/usbip answers by wss"
    seen = doctor_agent.judge_host(PROXIED, "tls", False)
    assert seen.outcome is Outcome.WARNING and "through the proxy proxy port 3128 answers by tls" in seen.what


async def plainly(host: Host) -> Stream:
    return await Dialler(lambda: None)(host)


def here(port: int) -> Host:
    return Host(f"port-{port}", "127.0.0.1", port, Transport.PLAIN)


def test_dialling(monkeypatch: pytest.MonkeyPatch) -> None:
    """All at once: one that is fine, one that hangs up, one that speaks first, one where nobody listens."""
    monkeypatch.setattr(doctor_agent, "OBJECTION_DEADLINE", 0.2)
    with ExitStack() as stack:
        silent, rude, talker, gone = (
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(4))
        hosts = [here(server.getsockname()[1]) for server in (silent, rude, talker, gone)]
        gone.close()

        def answer() -> None:
            rude.accept()[0].close()
            connection, _ = talker.accept()
            connection.sendall(b"SSH-2.0")
            connection.close()

        answering = threading.Thread(target=answer)
        answering.start()
        [fine, hung_up, spoke, refused] = [each for _, each in doctor_agent.dial_all(hosts, plainly)]
        answering.join()
    assert fine == "plain"
    assert isinstance(hung_up, ProtocolFault) and "hung up without a word" in hung_up.what
    assert isinstance(spoke, ProtocolFault) and "not usbipa" in spoke.what
    assert isinstance(refused, UnreachableFault) and refused.what == "connection refused"


def test_a_host_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_agent, "ANSWER_DEADLINE", 0.05)

    async def hang(host: Host) -> Stream:
        raise await asyncio.get_running_loop().create_future()

    [(found, fault)] = doctor_agent.dial_all([LAB], hang)
    assert found is LAB and isinstance(fault, UnreachableFault) and "no answer" in fault.what


def test_devices_that_need_somebody() -> None:
    findings = list(doctor_agent.judge_devices([
        DeviceReport("1-1", state=ExportState.CONNECTED), DeviceReport("1-2", state=ExportState.FAILED),
        DeviceReport("1-3", state=ExportState.WAITING, reason="refused"), DeviceReport("1-4")]))
    assert [(each.name, each.outcome) for each in findings] == [
        ("device 1-2", Outcome.FAILED), ("device 1-3", Outcome.WARNING)]


@pytest.mark.parametrize(("count", "outcomes"), [
    (0, []), (12, []), (13, [Outcome.WARNING]), (16, [Outcome.FAILED])])
def test_the_stub_table(count: int, outcomes: list[Outcome]) -> None:
    assert [each.outcome for each in doctor_agent.judge_table(count)] == outcomes


@pytest.mark.parametrize(("year", "synchronized", "outcome"), [
    (1970, "yes", Outcome.FAILED), (2027, "yes", Outcome.OK), (2027, "no", Outcome.WARNING),
    (2027, "", Outcome.OK)])
def test_the_clock(year: int, synchronized: str, outcome: Outcome) -> None:
    assert judge_clock(year, synchronized).outcome is outcome


def test_the_user() -> None:
    assert judge_user(AGENT, 0).outcome is Outcome.OK
    assert judge_user(AGENT, 1000).outcome is Outcome.WARNING


def test_why_the_daemon_does_not_answer() -> None:
    fault = UnavailableFault("usbip-agent is not running", hint="systemctl start")
    stopped = judge_fault(AGENT, fault, "inactive")
    assert (stopped.exit_status, stopped.cure) == (69, "systemctl start")
    broken = judge_fault(AGENT, fault, "failed")
    assert broken.what == "usbip-agent.service has failed" and "journalctl" in broken.cure
    assert judge_fault(AGENT, DeadlineFault("silence"), "active").exit_status == 1


def row(port: int, hub: Hub, state: PortState) -> PortRow:
    return PortRow(port, hub, state, Speed.UNKNOWN, 0, 0, "")


def test_ports() -> None:
    rows = [row(0, Hub.HIGH, PortState.USED), row(1, Hub.HIGH, PortState.ERROR),
            row(2, Hub.SUPER, PortState.FREE)]
    high, fast = doctor_usbipa.judge_ports(rows)
    assert (high.outcome, high.what) == (Outcome.FAILED, "0 of 2 free")
    assert (fast.outcome, fast.what) == (Outcome.OK, "1 of 1 free")


LISTENER = Listener("*", 3240, frozenset({ListenerTransport.PLAIN}))


@pytest.mark.parametrize(("running", "is_open", "owner", "outcome"), [
    (True, True, "usbipa", Outcome.OK), (True, True, "", Outcome.OK), (True, True, "usbipd", Outcome.FAILED),
    (False, True, "nginx", Outcome.FAILED), (False, False, "", Outcome.WARNING),
    (True, False, "", Outcome.FAILED)])
def test_listeners(running: bool, is_open: bool, owner: str, outcome: Outcome) -> None:
    assert doctor_usbipa.judge_listener(USBIPA, LISTENER, running, is_open, owner).outcome is outcome


def test_policies_that_do_nothing() -> None:
    assert doctor_usbipa.judge_policy(USBIPA, AcceptPolicy()).outcome is Outcome.WARNING
    assert doctor_usbipa.judge_policy(USBIPA, AcceptPolicy(listen=(LISTENER,))).outcome is Outcome.WARNING
    open_to_all = AcceptPolicy(listen=(LISTENER,), default_accept=True)
    assert doctor_usbipa.judge_policy(USBIPA, open_to_all).outcome is Outcome.OK


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_listening_sockets_are_found(family: socket.AddressFamily, address: str) -> None:
    if family == socket.AF_INET6 and not Path("/proc/net/if_inet6").read_text():
        pytest.skip("no IPv6 here")
    with socket.create_server((address, 0), family=family) as server:
        port = server.getsockname()[1]
        listener = Listener(address, port, frozenset())
        found = doctor_usbipa.socket_for(listener, listening_sockets())
        assert found is not None and (str(found.address), found.port) == (address, port)
        assert owner_of(found.inode) == Path(f"/proc/{os.getpid()}/comm").read_text().strip()
        assert doctor_usbipa.socket_for(Listener("192.0.2.1", port, frozenset()), [found]) is None
    assert owner_of("0") == ""


def test_the_interface_of_a_link_local_address_is_not_in_proc() -> None:
    found = ListeningSocket(ip_address("fe80::1"), 3240, "7")
    assert doctor_usbipa.socket_for(Listener("fe80::1%eth0", 3240, frozenset()), [found]) is found
    assert doctor_usbipa.socket_for(Listener("fe80::2%eth0", 3240, frozenset()), [found]) is None


def test_the_cure_for_a_module(tmp_path: Path) -> None:
    release = os.uname().release
    assert "reboot" in modules.cure("usbip-host", tmp_path)
    directory = tmp_path / release
    directory.mkdir()
    (directory / "modules.dep").write_text("kernel/drivers/usb/core/usbcore.ko.xz:\n")
    assert "install linux-image-" in modules.cure("usbip-host", tmp_path)
    (directory / "modules.dep").write_text("kernel/drivers/usb/usbip/usbip-host.ko.xz: kernel/usbip-core.ko\n"
                                           "kernel/drivers/usb/usbip/vhci-hcd.ko:\n")
    assert modules.cure("usbip-host", tmp_path) == "modprobe usbip-host"
    assert modules.cure("vhci-hcd", tmp_path) == "modprobe vhci-hcd"
