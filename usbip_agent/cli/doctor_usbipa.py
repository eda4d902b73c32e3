"""``usbipa doctor``: configuration, free ports, and whether it listens where it should."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_address
from typing import Final

from usbip_agent.cli.doctor_machine import ask_daemon, check_clock, check_module, check_user, check_versions
from usbip_agent.cli.findings import Finding, Outcome, failed, ok, warning
from usbip_agent.cli.listening import ListeningSocket, listening_sockets, owner_of
from usbip_agent.cli.output import counted
from usbip_agent.cli.policies import accept_policy
from usbip_agent.errors import Fault, PermissionFault
from usbip_agent.kernel.vhci import Hub, PortRow, Vhci
from usbip_agent.names import Service
from usbip_agent.policy.listeners import ANY
from usbip_agent.policy.usbipa import AcceptPolicy, Listener

STOCK_DAEMON: Final = "usbipd"


def examine(service: Service) -> list[Finding]:
    """All checks, in the order in which one would look."""
    daemon, _ = ask_daemon(service)
    return [check_module(service), *_check_configuration(service, daemon.outcome is Outcome.OK), daemon,
            *_check_ports(), check_user(service), check_clock(), check_versions(service)]


def _check_configuration(service: Service, running: bool) -> Iterator[Finding]:
    try:
        policy = accept_policy(service)
    except PermissionFault as fault:
        yield warning("configuration", fault.what, fault.hint)
        return
    except Fault as fault:
        yield failed("configuration", fault.what, fault.hint)
        return
    yield judge_policy(service, policy)
    sockets = listening_sockets()
    for listener in policy.listen:
        found = socket_for(listener, sockets)
        yield judge_listener(service, listener, running, found is not None,
                             owner_of(found.inode) if found else "")


def judge_policy(service: Service, policy: AcceptPolicy) -> Finding:
    """A valid policy may still listen nowhere or accept nothing, as the shipped one does."""
    hint = f"see man {service.command}.yaml; {service.configuration}"
    if not policy.listen:
        return warning("configuration", "valid, but it listens nowhere", hint)
    if not policy.default_accept and not any(rule.accept for rule in policy.rules):
        return warning("configuration", "valid, but no rule accepts anything", hint)
    return ok("configuration",
              f"valid: {counted(len(policy.listen), 'listener')}, {counted(len(policy.rules), 'rule')}")


def socket_for(listener: Listener, sockets: Iterable[ListeningSocket]) -> ListeningSocket | None:
    """The socket that takes what comes to *listener*'s address, whoever has it.

    /proc does not tell the interface of a link-local address (``fe80::1%eth0``), so any will do.
    """
    address = listener.address.partition("%")[0]
    for each in sockets:
        if each.port == listener.port and (
                each.address.is_unspecified or address == ANY or each.address == ip_address(address)):
            return each
    return None


def judge_listener(service: Service, listener: Listener, running: bool, is_open: bool, owner: str) -> Finding:
    """*owner* is the name of the process that listens there, empty where nobody may know."""
    name = f"listener {listener.address} port {listener.port}"
    if is_open and (owner == STOCK_DAEMON or not running):
        return failed(name, f"{owner or 'another process'} listens there",
                      f"ss -ltnp 'sport = :{listener.port}'; give one of both another port")
    if is_open:
        return ok(name, "open")
    if not running:
        return warning(name, f"closed, since {service.command} does not run",
                       f"systemctl start {service.unit}")
    return failed(name, f"{service.command} runs, and does not listen there",
                  f"systemctl restart {service.unit}; journalctl -u {service.unit}")


def _check_ports() -> Iterable[Finding]:
    try:
        return judge_ports(tuple(Vhci().rows()))
    except Fault:
        return ()  # without the module, which is a finding already


def judge_ports(rows: Sequence[PortRow]) -> Iterator[Finding]:
    """High-speed devices and SuperSpeed ones need ports of different hubs."""
    for hub, speed in ((Hub.HIGH, "up to high speed"), (Hub.SUPER, "SuperSpeed")):
        ports = [row for row in rows if row.hub == hub]
        free = sum(row.is_free for row in ports)
        what = f"{free} of {len(ports)} free"
        if ports and not free:
            yield failed(f"ports {speed}", what, "usbipa status; usbip port; detach what is not needed")
        elif ports:
            yield ok(f"ports {speed}", what)
