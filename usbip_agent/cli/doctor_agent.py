"""``usbip-agent doctor``: configuration, hosts, the stub's table, devices that are not connected."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Final

from usbip_agent.cli.doctor_machine import ask_daemon, check_clock, check_module, check_user, check_versions
from usbip_agent.cli.findings import Finding, failed, ok, warning
from usbip_agent.cli.output import counted
from usbip_agent.cli.policies import agent_policy
from usbip_agent.errors import (
    Fault, IdentityFault, PermissionFault, ProtocolFault, UnreachableFault)
from usbip_agent.identity.own import load_identity, state_directory
from usbip_agent.kernel.stub import ENTRIES, Stub
from usbip_agent.names import Service
from usbip_agent.policy.agent import AgentPolicy, Host
from usbip_agent.policy.transports import Transport
from usbip_agent.report import DeviceReport, ExportState, Report
from usbip_agent.transport.dial import Dialler
from usbip_agent.transport.names import dialled
from usbip_agent.transport.stream import Stream, receive_exactly
from usbip_agent.transport.tls import Credentials, objection

ANSWER_DEADLINE: Final = 10.0
"""Seconds for a host: its name, proxy, TLS and all. All hosts are asked at the same time."""

OBJECTION_DEADLINE: Final = 2.0
"""Seconds for a host to turn us away after the handshake."""

Dial = Callable[[Host], Awaitable[Stream]]


def examine(service: Service) -> list[Finding]:
    """All checks, in the order in which one would look."""
    daemon, reports = ask_daemon(service)
    return [check_module(service), *_check_configuration(service), daemon, *judge_devices(reports),
            *judge_table(len(Stub().claimed_bus_ids())), check_user(service), check_clock(),
            check_versions(service)]


def _check_configuration(service: Service) -> Iterator[Finding]:
    try:
        policy = agent_policy(service)
    except PermissionFault as fault:
        yield warning("configuration", fault.what, fault.hint)
        return
    except Fault as fault:
        yield failed("configuration", fault.what, fault.hint)
        return
    yield judge_policy(service, policy)
    if not policy.hosts:
        return
    try:
        own = own_credentials(service)
    except IdentityFault as fault:
        yield failed("identity", fault.what, fault.hint)
        return
    for host, outcome in dial_all(policy.hosts, Dialler(lambda: own)):
        yield judge_host(host, outcome, own is not None)


def judge_policy(service: Service, policy: AgentPolicy) -> Finding:
    """A valid policy may still export nothing, as the shipped one does."""
    if not policy.default_hosts and not any(rule.hosts for rule in policy.rules):
        return warning("configuration", "valid, but no rule connects anything",
                       f"add a rule to {service.configuration}, see man {service.command}.yaml")
    return ok("configuration",
              f"valid: {counted(len(policy.hosts), 'host')}, {counted(len(policy.rules), 'rule')}")


def place_of(host: Host) -> str:
    """Where *host* is dialled, in the words of its entry."""
    through = f" through the proxy {host.proxy.host} port {host.proxy.port}" if host.proxy else ""
    if host.url or host.service:
        return f"{host.url or host.address}{through}"
    return f"{host.address} port {host.port}{through}"


def own_credentials(service: Service) -> Credentials | None:
    """This node's own, as the daemon uses them; None for who may not read them, and before its first start.

    IdentityFault for damaged ones.
    """
    if os.geteuid() != 0:
        return None
    own = load_identity(state_directory(service))
    return None if own is None else Credentials(own.certificate, own.key)


def dial_all(hosts: Sequence[Host], dial: Dial) -> list[tuple[Host, str | Fault]]:
    """Each host with the transport that it answered by, or why it did not; all are asked at once."""
    async def ask_all() -> list[str | Fault]:
        return await asyncio.gather(*(_ask(host, dial) for host in hosts))

    return list(zip(hosts, asyncio.run(ask_all())))


async def _ask(host: Host, dial: Dial) -> str | Fault:
    try:
        async with asyncio.timeout(ANSWER_DEADLINE):
            stream = await dial(host)
            try:
                await _hear_objections(stream)
                return stream.transport
            finally:
                await stream.close()
    except TimeoutError:
        return UnreachableFault(f"no answer for {ANSWER_DEADLINE:g} s")
    except Fault as fault:
        return fault


async def _hear_objections(stream: Stream) -> None:
    """Returns when the host waits for us to speak. Under TLS 1.3 it judges us when our half is done."""
    try:
        async with asyncio.timeout(OBJECTION_DEADLINE):
            await receive_exactly(stream.socket, 1)
    except TimeoutError:
        return
    except ProtocolFault as fault:
        raise objection(stream, fault) from None
    raise ProtocolFault("something that speaks before it is asked: this is not usbipa")


def judge_host(host: Host, outcome: str | Fault, is_known: bool) -> Finding:
    """Tells apart what has different cures. *is_known*: we have shown a certificate, where one is wanted."""
    name, where = f"host {host.name}", place_of(host)
    if isinstance(outcome, Fault):
        return failed(name, f"{where}: {outcome.what}", outcome.hint or _cure_of(host, outcome))
    if is_known or host.transport is Transport.PLAIN or host.certificate is not None:
        return ok(name, f"{where} answers by {outcome}")
    return warning(name, f"{where} answers by {outcome}; whether it knows this node was not tried",
                   "sudo usbip-agent doctor; the certificate is made when the daemon starts first")


_CURES: Final = (
    ("cannot resolve", "getent hosts {name}; correct the name in the configuration, or the resolver"),
    ("connection refused", "start usbipa there (usbipa doctor), or correct the port"),
    ("no answer", "is the host up? does a firewall drop the packets?"),
    ("did not answer", "is it up? does a firewall drop the packets?"),
    ("timed out", "is the host up? does a firewall drop the packets?"),
    ("firewall", "nft list ruleset"),
    ("unreachable", "ip route; ping"),
    ("no route", "ip route; ping"),
    ("cannot reach", "start usbipa there (usbipa doctor); may the proxy connect to it?"),
    ("certificate", "correct that server's certificate, or have this machine trust who signed it"),
    ("speak TLS", "is it usbipa that listens there, with tls among its transports?"),
)
"""What helps against what the dialler says, where it does not say so itself."""


def _cure_of(host: Host, fault: Fault) -> str:
    if fault.what.startswith("the proxy ") and isinstance(fault, UnreachableFault) and ": " in fault.what:
        return f"correct the proxy of {host.name}, or see to it"
    name = host.service or dialled(host)[0]
    found = (cure for words, cure in _CURES if words in fault.what)
    return next(found, "usbipa doctor there; journalctl -u usbipa says what it saw").format(name=name)


def judge_table(count: int) -> Iterable[Finding]:
    """The stub's table of busids is small, and stock ``usbip bind`` fills it too."""
    if count >= ENTRIES:
        yield failed("table", f"match_busid of usbip-host is full ({ENTRIES} entries)",
                     "usbip unbind what is exported by hand")
    elif count > ENTRIES * 3 // 4:
        yield warning("table", f"match_busid of usbip-host has {count} of {ENTRIES} entries",
                      "usbip unbind what is exported by hand")


def judge_devices(reports: Sequence[Report]) -> Iterator[Finding]:
    """Devices that are not where the policy wants them."""
    for report in reports:
        if isinstance(report, DeviceReport):
            name, what = f"device {report.bus_id}", f"{report.state}: {report.reason}"
            if report.state == ExportState.FAILED:
                yield failed(name, what, "replug it, or: usbip-agent connect")
            elif report.state in (ExportState.WAITING, ExportState.BLOCKED):
                yield warning(name, what, f"usbip-agent explain {report.bus_id}")
