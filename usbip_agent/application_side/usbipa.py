"""The daemon, as the peers (``negotiation.Desk``), the bus (``UsbipaOperations``) and signals see it."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Protocol

from usbip_agent.application_side.imports import Import, Offer
from usbip_agent.application_side.keeper import Keeper
from usbip_agent.application_side.life import Life
from usbip_agent.blocking import LOAD_DEADLINE, in_thread
from usbip_agent.errors import Fault, ModuleFault, RefusedFault
from usbip_agent.kernel.vhci import MODULE_HINT
from usbip_agent.policy.usbipa import AcceptDecision, AcceptPolicy, ExportReply, Listener, ListenerTransport
from usbip_agent.report import ImportReport, ImportState

log = logging.getLogger(__name__)


class Sockets(Protocol):
    """What is needed of the listening sockets (``listener.Listeners``)."""

    @property
    def listening(self) -> tuple[Listener, ...]: ...
    def configure(self, wanted: Iterable[Listener]) -> None: ...


class Publisher(Protocol):
    """Where imports are shown (``bus.publisher.Publisher``)."""

    def put(self, report: ImportReport) -> None: ...
    def remove(self, key: int) -> None: ...


class Showcase:
    """Shows imports on the bus when there is one, and tells of each change (``life.Display``)."""

    def __init__(self, on_change: Callable[[], None], publisher: Callable[[], Publisher | None]) -> None:
        self._on_change = on_change
        self._publisher = publisher
        self._shown: dict[int, ImportReport] = {}

    @property
    def reports(self) -> tuple[ImportReport, ...]:
        return tuple(self._shown.values())

    def show(self, entry: Import) -> None:
        self._shown[entry.port] = entry.report
        if (publisher := self._publisher()) is not None:
            publisher.put(entry.report)
        self._on_change()

    def hide(self, port: int) -> None:
        self._shown.pop(port, None)
        if (publisher := self._publisher()) is not None:
            publisher.remove(port)
        self._on_change()


@dataclass(frozen=True, slots=True)
class Overrides:
    """What the command line says over the configuration."""

    port: int | None = None

    def apply(self, listeners: Iterable[Listener]) -> tuple[Listener, ...]:
        """*listeners* with the port of ``-t``; those that differed by the port alone become one."""
        if self.port is None:
            return tuple(listeners)
        return tuple(dict.fromkeys(replace(each, port=self.port) for each in listeners))


class Usbipa:
    """Applies the policy to what comes in."""

    def __init__(self, load_policy: Callable[[], AcceptPolicy], keeper: Keeper, sockets: Sockets,
                 is_module_loaded: Callable[[], bool], enrolled_with: Callable[[str], str | None],
                 overrides: Overrides = Overrides()) -> None:
        """*enrolled_with* says which node has enrolled with the certificate of that fingerprint."""
        self._load_policy = load_policy
        self._keeper = keeper
        self._sockets = sockets
        self._is_module_loaded = is_module_loaded
        self._enrolled_with = enrolled_with
        self._overrides = overrides
        self._policy = AcceptPolicy()
        self._asleep = False
        self._reloading = asyncio.Lock()

    # As peers see it.

    @property
    def with_return_code(self) -> bool:
        return self._policy.export_reply is ExportReply.V9

    @property
    def dead_after(self) -> float:
        return self._policy.dead_after

    async def admit(self, offer: Offer) -> Life:
        """Decides anew after each wait: a revocation, a reload or sleep ends the imports that are there.

        So a reservation, which is one of them, follows its decision at once.
        """
        rule = self._rule_that_accepts(offer)
        while await self._keeper.make_way(offer):
            rule = self._rule_that_accepts(offer)
        return self._keeper.reserve(offer, rule)

    async def unexport(self, offer: Offer) -> None:
        self._check_vouched_for(offer)
        await self._keeper.end(self._keeper.find(offer).port, f"un-exported by {offer.peer}")

    # As the bus sees it.

    async def detach(self, port: int) -> None:
        await self._keeper.end(port, "detached by hand")

    async def reload(self) -> None:
        """InvalidConfiguration, or UnavailableFault for an address that cannot be had, changes nothing."""
        async with self._reloading:
            policy = await in_thread("reload", self._load_policy, deadline=LOAD_DEADLINE)
            self._sockets.configure(self._overrides.apply(policy.listen))
            self._policy = policy
            await self.end_rejected()

    async def fall_asleep(self) -> None:
        """Ends every import cleanly before the machine sleeps: the nodes see it at once, and come again."""
        self._asleep = True
        await self._keeper.end_all("this host goes to sleep")

    def wake_up(self) -> None:
        """Accepts again."""
        self._asleep = False

    async def end_imports_of(self, node: str) -> None:
        """Ends the imports of a node that may not come any more, and returns when their ports are free."""
        await self._keeper.end_all(f"{node} was revoked", which=lambda entry: entry.offer.node == node)

    @property
    def first_port(self) -> int:
        """The port that join codes tell: of the first listener that takes TLS. Fault when none does."""
        for listener in self._sockets.listening:
            if ListenerTransport.TLS in listener.transports:
                return listener.port
        raise Fault("no listener takes tls, so that nobody could join",
                    hint="see listen in usbipa.yaml(5); another way here: --host wss://… or -t PORT")

    # As main sees it.

    def configure(self) -> None:
        """Loads the policy and listens, without accepting yet. As ``reload``, it may raise."""
        policy = self._load_policy()
        self._sockets.configure(self._overrides.apply(policy.listen))
        self._policy = policy

    async def end_rejected(self) -> None:
        """Ends the imports that would be refused today, and returns when their ports are free."""
        await self._keeper.end_all(
            "its node was revoked", which=lambda entry: not self._is_vouched_for(entry.offer))
        await self._keeper.end_all(
            "the rules no longer accept it", which=lambda entry: not self._decide(entry.offer).accept)

    @property
    def status(self) -> str:
        """What an operator wants to know first."""
        imports = tuple(self._keeper)
        attaching = sum(1 for each in imports if each.state is ImportState.ATTACHING)
        counts = f"{len(imports)} imported" + (f" ({attaching} attaching)" if attaching else "")
        where = ", ".join(_shown(each) for each in self._sockets.listening)
        line = f"{counts}, listening {f'on {where}' if where else 'nowhere: none is configured'}"
        if not self._is_module_loaded():
            return f"vhci-hcd is not loaded, nothing can be imported ({MODULE_HINT}); {line}"
        return line

    def _rule_that_accepts(self, offer: Offer) -> str:
        """RefusedFault, ModuleFault when *offer* cannot be taken now."""
        if self._asleep:
            raise RefusedFault("this host is about to sleep")
        self._check_vouched_for(offer)
        decision = self._decide(offer)
        if not decision.accept:
            raise RefusedFault(f"rule {decision.rule}: {decision.why}")
        if not self._is_module_loaded():
            raise ModuleFault("vhci-hcd is not loaded", hint=MODULE_HINT)
        return decision.rule

    def _check_vouched_for(self, offer: Offer) -> None:
        if not self._is_vouched_for(offer):
            raise RefusedFault("its certificate is no longer that of an enrolled node")

    def _is_vouched_for(self, offer: Offer) -> bool:
        """Whether its node is still known as it was when the connection was made."""
        return not offer.certificate or self._enrolled_with(offer.certificate) == offer.node

    def _decide(self, offer: Offer) -> AcceptDecision:
        peer = ipaddress.ip_address(offer.address)
        return self._policy.decide(node=offer.node, peer=peer, device=offer.device)


def _shown(listener: Listener) -> str:
    address = f"[{listener.address}]" if ":" in listener.address else listener.address
    return f"{address}:{listener.port} ({', '.join(sorted(listener.transports))})"
