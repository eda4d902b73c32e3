"""The device side's policy: which devices are connected to which hosts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from usbip_agent.device import Device
from usbip_agent.policy.collector import without_collector
from usbip_agent.policy.document import Entry, Mapping
from usbip_agent.policy.files import Documents, read_configuration, read_files, short_host_name
from usbip_agent.policy.hosts import DeclaredHost, Host, HostName, read_host_name, read_hosts, unique_hosts
from usbip_agent.policy.keys import key, one, only_true, read_keys, refuse_repeated, several
from usbip_agent.policy.match import EVERYTHING, Match, Traits, holding, read_match, traits_of
from usbip_agent.policy.problems import NOWHERE, InvalidConfiguration, Place, Problem, Problems, quoted
from usbip_agent.policy.rules import BUILT_IN, Step, refuse_equal_names, rules_of
from usbip_agent.policy.transports import Transport
from usbip_agent.policy.values import failback_time, rule_name, system_name, version_number

__all__ = [
    "AgentPolicy", "ConnectRule", "Decision", "Host", "InvalidConfiguration", "Match", "Problem", "Step",
    "Transport", "load_agent_policy", "load_agent_policy_files",
]


def _true_or_false(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(f"true or false can stand here, not {quoted(text)}")
    return text == "true"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectRule:
    """A rule: what *match* holds for is connected to the first of *hosts* that takes it; none = ignored."""

    verdicts: ClassVar[tuple[str, ...]] = ("connect", "ignore")

    name: str = key(one(rule_name), default="")
    match: Match = key(read_match, default=EVERYTHING)
    connect: tuple[HostName, ...] = key(several(read_host_name), default=())
    """The hosts as written; *hosts* is what they mean."""
    failback: float | None = key(one(failback_time), default=None)
    """See ``Decision.failback``."""
    ignore: bool = key(one(only_true), default=False)
    force: bool = key(one(_true_or_false), default=False)
    """See ``Decision.force``."""
    hosts: tuple[Host, ...] = ()
    place: Place = NOWHERE


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to become of a device. *rule* is the deciding rule's name, or ``default``."""

    rule: str
    hosts: tuple[Host, ...]
    """In the order in which they are to be tried; empty = ignore."""
    trace: tuple[Step, ...] = ()
    """The deciding step; from ``explain`` preceded by those of all earlier rules."""
    failback: float | None = None
    """Seconds that a host in front of the connected one must have been back for; None = stay."""
    force: bool = False
    """Whether it is connected even though the running system stands on it."""

    @property
    def connects(self) -> bool:
        return bool(self.hosts)

    @property
    def verdict(self) -> str:
        """``connect to lab, then backup`` or ``ignore``."""
        return _verdict(self.hosts)

    @property
    def why(self) -> str:
        """The deciding step's reason, with the verdict."""
        return self.trace[-1].why if self.trace else self.verdict


def _verdict(hosts: Sequence[Host]) -> str:
    return f"connect to {', then '.join(host.name for host in hosts)}" if hosts else "ignore"


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentPolicy:
    """A whole valid configuration. Immutable: a reload makes another one."""

    node: str
    hosts: tuple[Host, ...] = ()
    rules: tuple[ConnectRule, ...] = ()
    default_hosts: tuple[Host, ...] = ()
    default_failback: float | None = None
    default_location: str = BUILT_IN

    def host(self, name: str) -> Host | None:
        """The configured host of that name."""
        return next((host for host in self.hosts if host.name == name), None)

    def decide(self, device: Device) -> Decision:
        """The first rule that matches decides. The trace holds the deciding step only."""
        traits = traits_of(device)
        for rule in self.rules:
            if rule.match.holds(traits):
                trace = (_deciding_step(rule, traits),)
                return Decision(rule.name, rule.hosts, trace, rule.failback, rule.force)
        return Decision("default", self.default_hosts, (self._default_step(),), self.default_failback)

    def explain(self, device: Device) -> Decision:
        """As ``decide``, with a step for each rule that was examined."""
        decision = self.decide(device)
        traits = traits_of(device)
        return replace(decision, trace=(*self._failed_steps(decision.rule, traits), *decision.trace))

    def _failed_steps(self, deciding: str, traits: Traits) -> Iterator[Step]:
        for rule in self.rules:
            mismatch = rule.match.examine_traits(traits)
            if rule.name == deciding or mismatch is None:
                return
            yield Step(rule.name, str(rule.place), False, mismatch.why)

    def _default_step(self) -> Step:
        why = f"no rule matches: {_verdict(self.default_hosts)}"
        return Step("default", self.default_location, True, why)


def _deciding_step(rule: ConnectRule, traits: Traits) -> Step:
    why = f"{holding(rule.match.findings(traits))}: {_verdict(rule.hosts)}"
    return Step(rule.name, str(rule.place), True, why)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Default:
    """``default: ignore`` or ``default: {connect: HOSTS}``."""

    connect: tuple[HostName, ...] = key(several(read_host_name), default=(), required=True)
    failback: float | None = key(one(failback_time), default=None)
    place: Place = NOWHERE


def _read_default(entry: Entry, problems: Problems) -> _Default | None:
    if isinstance(entry.value, Mapping):
        default = read_keys(_Default, entry.value, problems, what="default", place=entry.place)
        _require_a_way_back("default", default, problems)
        return default
    return _Default(place=entry.place) if one(_only_ignore)(entry, problems) else None


def _require_a_way_back(what: str, entry: ConnectRule | _Default, problems: Problems) -> None:
    if entry.failback is not None and len(entry.connect) < 2:
        problems.add(entry.place, f"{what} has failback but no list of hosts: there is nowhere to return to")


def _only_ignore(text: str) -> str:
    if text != "ignore":
        raise ValueError(f"ignore or {{connect: HOST}} can stand here, not {quoted(text)}")
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """The keys of agent.yaml and of each drop-in."""

    version: int = key(one(version_number), default=0, required=True)
    node: str = key(one(system_name), default="", once=True)
    hosts: tuple[DeclaredHost, ...] = key(read_hosts, default=())
    rules: tuple[ConnectRule, ...] = key(rules_of(ConnectRule), default=())
    default: _Default | None = key(_read_default, default=None, once=True)


def load_agent_policy(configuration: Path, drop_ins: Path) -> AgentPolicy:
    """The policy of *configuration* and of the ``*.yaml`` in *drop_ins*. Raises InvalidConfiguration."""
    problems = Problems()
    with without_collector():
        return _policy_of(read_configuration(configuration, drop_ins, problems), problems)


def load_agent_policy_files(files: Sequence[Path]) -> AgentPolicy:
    """The policy of these files alone, in this order. Raises InvalidConfiguration; *files* are not empty."""
    problems = Problems()
    with without_collector():
        return _policy_of(read_files(files, problems), problems)


def _policy_of(documents: Documents, problems: Problems) -> AgentPolicy:
    files = [read_keys(_File, mapping, problems, what="a configuration") for mapping in documents.mappings]
    refuse_repeated(_File, documents, problems)
    hosts = unique_hosts([each for file in files for each in file.hosts], problems)
    rules = [rule for file in files for rule in file.rules]
    refuse_equal_names(rules, problems)
    for rule in rules:
        _require_a_way_back(f"the rule {quoted(rule.name)}", rule, problems)
        if rule.force and rule.ignore:
            problems.add(rule.place, f"the rule {quoted(rule.name)} ignores: there is nothing to force")
    default = next((file.default for file in files if file.default), _Default())
    node = next((file.node for file in files if file.node), "")
    if documents.are_complete:
        # With a file missing, the hosts that it declares would all seem unknown.
        for name in [name for rule in rules for name in rule.connect] + list(default.connect):
            _refuse_unknown_host(name, hosts, problems)
        node = node or _own_name(documents, problems)
    problems.raise_if_any(documents.sources)
    return AgentPolicy(
        node=node, hosts=tuple(hosts.values()),
        rules=tuple(replace(rule, hosts=tuple(hosts[each.name] for each in rule.connect)) for rule in rules),
        default_hosts=tuple(hosts[each.name] for each in default.connect),
        default_failback=default.failback,
        default_location=BUILT_IN if default.place is NOWHERE else str(default.place))


def _refuse_unknown_host(name: HostName, hosts: dict[str, Host], problems: Problems) -> None:
    if name.name not in hosts:
        hint = problems.nearest(name.name, hosts) or ": no hosts are declared"
        problems.add(name.place, f"connect: there is no host {quoted(name.name)}" + hint)


def _own_name(documents: Documents, problems: Problems) -> str:
    """What the machine calls itself, where no ``node`` says so."""
    try:
        return system_name(short_host_name())
    except ValueError as error:
        message = f"the host name does not do for a node: {error}; set node:"
        problems.add(Place(documents.sources[0], 0), message)
        return ""
