"""``usbip-agent join``: pin a host, enrol this node there, write the host's entry, and use it at once."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from usbip_agent.cli.options import Verb, option, some_text
from usbip_agent.cli.output import print_diagnostic, print_line
from usbip_agent.errors import (
    ConfigurationFault, DeadlineFault, ExitStatus, Fault, PermissionFault, ProtocolFault, UnavailableFault,
    UnreachableFault)
from usbip_agent.names import Service

if TYPE_CHECKING:
    from usbip_agent.identity.host_entry import StagedEntry
    from usbip_agent.identity.join_code import JoinCode
    from usbip_agent.policy.hosts import Host
    from usbip_agent.transport.stream import Stream

    Dial = Callable[[Host], Awaitable[Stream]]


_CURE: Final = "is usbipa running there, and is the way to it open? --proxy leads through an HTTP proxy"


def run(service: Service, arguments: Namespace) -> int:
    from usbip_agent.identity.join_code import parse
    from usbip_agent.transport.dial import DIAL_TO_ENROL

    code = parse(arguments.code)
    if os.geteuid() != 0:
        raise PermissionFault("only root may join a host", hint=f"sudo {service.command} join …")
    join(service, code, DIAL_TO_ENROL, name=arguments.name, proxy=arguments.proxy, replace=arguments.replace)
    return ExitStatus.DONE


def join(service: Service, code: JoinCode, dial: Dial, *, name: str | None = None,
         proxy: str | None = None, replace: bool = False) -> None:
    """Does it all, and says so. Until the host has enrolled us, nothing changes but for our own identity.

    *dial* gives a stream to a host, TLS and all, once the certificate there has the host's fingerprint.
    """
    from usbip_agent.cli.policies import with_hint
    from usbip_agent.identity.host_entry import stage_entry

    try:
        staged = stage_entry(service, name or code.host, code, proxy=proxy, replace_other=replace)
    except ConfigurationFault as invalid:
        raise with_hint(service, invalid) from None
    try:
        _enrol(service, code, staged, dial)
    except BaseException:
        staged.discard()
        raise
    staged.commit()
    host = staged.host.name
    print_line(f"enrolled as {code.node} at {host} ({code.where}); in a rule, write: connect: {host}")
    _reload(service)


def _enrol(service: Service, code: JoinCode, staged: StagedEntry, dial: Dial) -> None:
    import asyncio

    from usbip_agent.identity.enrolment import request_enrolment
    from usbip_agent.identity.own import ensure_identity, state_directory

    certificate = ensure_identity(state_directory(service), code.node).pem

    async def enrol() -> None:
        try:
            stream = await dial(staged.host)
        except (UnreachableFault, DeadlineFault, ProtocolFault) as fault:
            raise type(fault)(f"{code.where}: {fault.what}", hint=fault.hint or _CURE) from None
        try:
            await request_enrolment(stream, code, certificate)
        finally:
            await stream.close()

    asyncio.run(enrol())


def _reload(service: Service) -> None:
    from usbip_agent.cli.daemon import ask

    try:
        ask(service, lambda client: client.call("Reload"))
    except UnavailableFault as fault:
        print_diagnostic(service.command, f"{fault.what}: it will use the host once it runs ({fault.hint})")
    except Fault as fault:
        raise Fault(f"enrolled, but {service.command} has not reloaded: {fault.what}",
                    hint=f"systemctl reload {service.unit}") from None


VERB: Final = Verb("enrol this node at the host that issued a join code", run, (
    option("code", metavar="CODE", type=some_text, help="the line that usbipa enroll printed"),
    option("--proxy", metavar="URL", type=some_text,
           help="the HTTP proxy on the way: http://user:pass@proxy:3128"),
    option("--name", metavar="HOST", type=some_text, help="what to call the host here"),
    option("--replace", action="store_true",
           help="also when the host of that name had another certificate until now")))
