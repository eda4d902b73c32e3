"""The application side's policy: where to listen, and whose devices to take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import ClassVar

from usbip_agent.device import Device
from usbip_agent.policy.collector import without_collector
from usbip_agent.policy.document import Entry
from usbip_agent.policy.files import Documents, read_configuration, read_files
from usbip_agent.policy.keys import choice, key, one, one_or_more, only_true, read_keys, refuse_repeated
from usbip_agent.policy.listeners import Listener, read_listeners
from usbip_agent.policy.match import EVERYTHING, Match, Traits, holding, read_match, traits_of
from usbip_agent.policy.patterns import Wanted, any_holds, shell_pattern
from usbip_agent.policy.problems import (
    NOWHERE, InvalidConfiguration, Place, Problem, Problems, listed, quoted,
)
from usbip_agent.policy.rules import BUILT_IN, Step, refuse_equal_names, rules_of
from usbip_agent.policy.transports import ListenerTransport
from usbip_agent.policy.values import (
    DEAD_AFTER, Network, dead_after_time, network, rule_name, version_number)

__all__ = [
    "AcceptDecision", "AcceptPolicy", "AcceptRule", "ExportReply", "InvalidConfiguration", "Listener",
    "ListenerTransport", "Match", "Problem", "Step", "load_accept_policy", "load_accept_policy_files",
]

PeerAddress = IPv4Address | IPv6Address


class ExportReply(StrEnum):
    """The shape of the reply to EXPORT, which no request asks for: 12 bytes or 8."""

    V9 = "v9"
    V14 = "v14"


@dataclass(frozen=True, slots=True)
class _Request:
    """What is to be decided, gathered once for all rules."""

    node: str | None
    peer: PeerAddress
    traits: Traits


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptRule:
    """A rule: who (*node*, *address*) may bring what (*match*). Empty node or address = anyone, anywhere."""

    verdicts: ClassVar[tuple[str, ...]] = ("accept", "reject")

    name: str = key(one(rule_name), default="")
    node: tuple[Wanted, ...] = key(one_or_more(shell_pattern), default=())
    address: tuple[Network, ...] = key(one_or_more(network), default=())
    match: Match = key(read_match, default=EVERYTHING)
    accept: bool = key(one(only_true), default=False)
    reject: bool = key(one(only_true), default=False)
    place: Place = NOWHERE

    def holds(self, request: _Request) -> bool:
        return self._who_mismatch(request) is None and self.match.holds(request.traits)

    def mismatch(self, request: _Request) -> str:
        """Why it does not hold; empty when it does."""
        why = self._who_mismatch(request)
        if why is not None:
            return why
        mismatch = self.match.examine_traits(request.traits)
        return mismatch.why if mismatch else ""

    def finding(self, request: _Request) -> str:
        """What of it holds: ``node "pi-*", vendor 10c4 hold``."""
        node = [f"node {each.shown}" for each in self.node if each.holds(request.node or "")][:1]
        address = [f"address {each}" for each in self.address if request.peer in each][:1]
        return holding([*node, *address, *self.match.findings(request.traits)])

    def _who_mismatch(self, request: _Request) -> str | None:
        if self.node and request.node is None:
            return "the connection is plain, its node is not authenticated"
        if self.node and not any_holds(self.node, request.node or ""):
            wanted = listed([each.shown for each in self.node], "or")
            return f"node is {quoted(request.node or '')}, not {wanted}"
        if self.address and not any(request.peer in each for each in self.address):
            return f"address is {request.peer}, not in {listed([str(each) for each in self.address], 'or')}"
        return None


@dataclass(frozen=True, slots=True)
class AcceptDecision:
    """Whether to take a device. *rule* is the deciding rule's name, or ``default``."""

    accept: bool
    rule: str
    trace: tuple[Step, ...] = ()
    """The deciding step; from ``explain`` preceded by those of all earlier rules."""

    @property
    def verdict(self) -> str:
        """``accept`` or ``reject``."""
        return _verdict(self.accept)

    @property
    def why(self) -> str:
        """The deciding step's reason, with the verdict."""
        return self.trace[-1].why if self.trace else self.verdict


def _verdict(accept: bool) -> str:
    return "accept" if accept else "reject"


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptPolicy:
    """A whole valid configuration. Immutable: a reload makes another one."""

    listen: tuple[Listener, ...] = ()
    rules: tuple[AcceptRule, ...] = ()
    default_accept: bool = False
    default_location: str = BUILT_IN
    export_reply: ExportReply = ExportReply.V9
    dead_after: float = DEAD_AFTER
    """Seconds without a sign of life after which a link is dead."""

    def decide(self, *, node: str | None, peer: PeerAddress, device: Device) -> AcceptDecision:
        """The first rule that matches decides. *node* None = nobody authenticated: a plain connection.

        An IPv4 peer on an IPv6 socket (``::ffff:10.9.0.7``) is the IPv4 one.
        """
        request = _request(node, peer, device)
        for rule in self.rules:
            if rule.holds(request):
                return AcceptDecision(rule.accept, rule.name, (_deciding_step(rule, request),))
        return AcceptDecision(self.default_accept, "default", (self._default_step(),))

    def explain(self, *, node: str | None, peer: PeerAddress, device: Device) -> AcceptDecision:
        """As ``decide``, with a step for each rule that was examined."""
        decision = self.decide(node=node, peer=peer, device=device)
        steps = self._failed_steps(decision.rule, _request(node, peer, device))
        return replace(decision, trace=(*steps, *decision.trace))

    def _failed_steps(self, deciding: str, request: _Request) -> Iterator[Step]:
        for rule in self.rules:
            if rule.name == deciding:
                return
            yield Step(rule.name, str(rule.place), False, rule.mismatch(request))

    def _default_step(self) -> Step:
        why = f"no rule matches: {_verdict(self.default_accept)}"
        return Step("default", self.default_location, True, why)


def _request(node: str | None, peer: PeerAddress, device: Device) -> _Request:
    mapped = peer.ipv4_mapped if isinstance(peer, IPv6Address) else None
    return _Request(node, mapped or peer, traits_of(device))


def _deciding_step(rule: AcceptRule, request: _Request) -> Step:
    return Step(rule.name, str(rule.place), True, f"{rule.finding(request)}: {_verdict(rule.accept)}")


@dataclass(frozen=True, slots=True)
class _Default:
    """``default: accept`` or ``default: reject``, and where."""

    accept: bool = False
    location: str = BUILT_IN


def _read_default(entry: Entry, problems: Problems) -> _Default | None:
    accept = one(_accepts)(entry, problems)
    return None if accept is None else _Default(accept, str(entry.place))


def _accepts(text: str) -> bool:
    if text not in ("accept", "reject"):
        raise ValueError(f"accept or reject can stand here, not {quoted(text)}")
    return text == "accept"


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """The keys of usbipa.yaml and of each drop-in."""

    version: int = key(one(version_number), default=0, required=True)
    listen: tuple[Listener, ...] = key(read_listeners, default=(), once=True)
    rules: tuple[AcceptRule, ...] = key(rules_of(AcceptRule), default=())
    default: _Default | None = key(_read_default, default=None, once=True)
    export_reply: ExportReply | None = key(one(choice(ExportReply)), default=None, once=True)
    dead_after: float | None = key(one(dead_after_time), default=None, once=True)


def load_accept_policy(configuration: Path, drop_ins: Path) -> AcceptPolicy:
    """The policy of *configuration* and of the ``*.yaml`` in *drop_ins*. Raises InvalidConfiguration."""
    problems = Problems()
    with without_collector():
        return _policy_of(read_configuration(configuration, drop_ins, problems), problems)


def load_accept_policy_files(files: Sequence[Path]) -> AcceptPolicy:
    """The policy of these files alone, in this order. Raises InvalidConfiguration; *files* are not empty."""
    problems = Problems()
    with without_collector():
        return _policy_of(read_files(files, problems), problems)


def _policy_of(documents: Documents, problems: Problems) -> AcceptPolicy:
    files = [read_keys(_File, mapping, problems, what="a configuration") for mapping in documents.mappings]
    refuse_repeated(_File, documents, problems)
    rules = tuple(rule for file in files for rule in file.rules)
    refuse_equal_names(rules, problems)
    problems.raise_if_any(documents.sources)
    default = next((file.default for file in files if file.default), _Default())
    return AcceptPolicy(
        listen=next((file.listen for file in files if file.listen), ()), rules=rules,
        default_accept=default.accept, default_location=default.location,
        export_reply=next((file.export_reply for file in files if file.export_reply), ExportReply.V9),
        dead_after=next((file.dead_after for file in files if file.dead_after), DEAD_AFTER))
