"""Who may come: the host's nodes, the codes that are out, and how often one may guess. One for each host."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from usbip_agent.blocking import in_thread
from usbip_agent.errors import Fault, IdentityFault, RefusedFault, UnknownNodeFault, UsageFault
from usbip_agent.identity.child import run_module
from usbip_agent.identity.codes import SECRET_BYTES, CodeFault, JoinCodes, Moment
from usbip_agent.transport.fingerprint import certificate_der, fingerprint_of
from usbip_agent.identity.join_code import JoinCode
from usbip_agent.identity.limiter import Address, Limiter, source_of
from usbip_agent.identity.nodes import KnownNode, KnownNodes
from usbip_agent.policy.values import system_name
from usbip_agent.text import printable

CHECK_DEADLINE: Final = 20.0
"""Seconds for the look at one certificate."""

Check = Callable[[str], Awaitable[None]]
"""Looks at a certificate (PEM) that somebody with a valid code sent. RefusedFault."""


async def check_certificate(pem: str) -> None:
    """RefusedFault when *pem* is no certificate that a node can be known by."""
    try:
        certificate_der(pem)
        await in_thread("certificate", lambda: run_module("checking", given=pem, deadline=CHECK_DEADLINE),
                        deadline=CHECK_DEADLINE + 5.0)
    except (ValueError, Fault) as error:
        raise RefusedFault(f"the certificate does not do: {error}") from None


class Registrar:
    """Issues codes and admits who brings one. *fingerprint* is that of our own certificate, empty = none.

    *state* keeps the nodes, *runtime* the codes: a reboot, which ends codes, empties it.
    """

    def __init__(self, state: Path, runtime: Path, *, host: str, fingerprint: str,
                 check: Check = check_certificate) -> None:
        self.known = KnownNodes(state)
        self.host = host
        """What nodes are to call us."""
        self._fingerprint = fingerprint
        self._codes = JoinCodes(runtime)
        self._limiter = Limiter()
        self._check = check
        # One certificate is looked at at a time: each costs a process.
        self._turn = asyncio.Lock()

    def enroll(self, node: str, host: str, port: int, now: Moment) -> JoinCode:
        """A code with which *node* can enrol at *host* (a name, an address, or a ``wss://`` URL).

        For a node that is enrolled, the code replaces its certificate. UsageFault; IdentityFault when we have
        no certificate that a node could pin; Fault.
        """
        if not self._fingerprint:
            raise IdentityFault("this host has no certificate that a node could know it by",
                                hint="journalctl -u usbipa says why")
        over_web = host.startswith("wss://")
        address, url, port = ("", host, 0) if over_web else (host, "", port)
        try:
            system_name(node)
            # Checked before anything is issued: the secret is filled in below.
            code = JoinCode(address, port, self._fingerprint, bytes(SECRET_BYTES), node, self.host, url)
        except ValueError as error:
            raise UsageFault(str(error)) from None
        return _with_secret(code, self._codes.issue(node, now))

    def nodes(self) -> tuple[KnownNode, ...]:
        """Every enrolled node, by name."""
        return self.known.all()

    def revoke(self, node: str, now: Moment) -> None:
        """Knows *node* no more, and lets no code for it in. UnknownNodeFault when there was neither."""
        cancelled = self._codes.cancel(node, now)
        if not self.known.revoke(node) and not cancelled:
            raise UnknownNodeFault(f"no node {printable(node, 64)} is enrolled here",
                                   hint="usbipa nodes shows those that are")

    def check_rate(self, address: Address, now: Moment) -> None:
        """RefusedFault when *address*, or everybody, has failed too often lately."""
        if not self._limiter.allows(source_of(address), now.uptime):
            raise RefusedFault("too many failed attempts to enrol", hint="try again in a minute")

    async def admit(self, node: str, secret: bytes, pem: str, address: Address,
                    now: Callable[[], Moment]) -> KnownNode:
        """Enrols *node*, which sent *secret* and its certificate from *address*. RefusedFault, Fault.

        The code is used up, on the disk, before the node is known and anything is answered.
        """
        self._verify(node, secret, address, now())
        async with self._turn:
            try:
                self._verify(node, secret, address, now())
                await self._check(pem)
                self.known.check_is_free(node, fingerprint_of(certificate_der(pem)))
                moment = now()
                self._codes.redeem(secret, moment)
            except CodeFault:
                raise
            except RefusedFault:
                # Whoever has a code and sends rubbish is not to keep us busy either.
                self._limiter.failed(source_of(address), now().uptime)
                raise
            return self.known.add(node, pem, int(moment.wall * 1_000_000))

    def _verify(self, node: str, secret: bytes, address: Address, now: Moment) -> None:
        """CodeFault, which counts as a failure of *address*. No await parts count and look."""
        self.check_rate(address, now)
        try:
            issued_for = self._codes.verify(secret, now)
            if node != issued_for:
                raise CodeFault(f"the join code is for {issued_for}, not {printable(node, 64)}")
        except CodeFault:
            self._limiter.failed(source_of(address), now.uptime)
            raise


def _with_secret(code: JoinCode, secret: bytes) -> JoinCode:
    return JoinCode(code.address, code.port, code.fingerprint, secret, code.node, code.host, code.url)
