"""Whether a rule's ``match`` holds for a device, and if not, why not. Pure."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping as Dictionary
from collections.abc import Sequence
from dataclasses import dataclass

from usbip_agent.device import CLASS_NAMES, Device, Kind, Speed
from usbip_agent.policy.document import Entry, Mapping, Scalar
from usbip_agent.policy.keys import Parser, choice, mapping_of, one_or_more, refuse_unknown
from usbip_agent.policy.patterns import Wanted, shell_pattern
from usbip_agent.policy.problems import Problems, listed, quoted
from usbip_agent.policy.values import four_hex_digits

Traits = tuple[tuple[str, ...], ...]
"""What a device says under each key of MATCH_KEYS, in their order; several texts for its classes."""


def _hex_digits(text: str) -> Wanted:
    digits = four_hex_digits(text)
    return Wanted(digits, digits)


def _speed(text: str) -> Wanted:
    speed = choice(Speed, without=(Speed.UNKNOWN,))(text)
    return Wanted(speed, speed)


def _kind(text: str) -> Wanted:
    kind = choice(Kind)(text)
    return Wanted(kind, kind)


def _class(text: str) -> Wanted:
    """A class by its name or its two hex digits; compared by code, shown by name."""
    for code, name in CLASS_NAMES.items():
        if text == name or text.lower() == f"{code:02x}":
            return Wanted(name, f"{code:02x}")
    if len(text) != 2 or not set(text.lower()) <= set("0123456789abcdef"):
        names = ", ".join(CLASS_NAMES.values())
        raise ValueError(f"{quoted(text)} is no class: give 2 hex digits or one of {names}")
    return Wanted(text.lower(), text.lower())


def _classes_of(device: Device) -> tuple[str, ...]:
    return tuple(f"{code:02x}" for code in sorted(device.interface_classes | {device.device_class}))


@dataclass(frozen=True, slots=True)
class MatchKey:
    """A key that ``match`` takes: how its values are read, and what a device says under it."""

    name: str
    parse: Parser[Wanted]
    values_of: Callable[[Device], tuple[str, ...]]


MATCH_KEYS = (
    MatchKey("vendor", _hex_digits, lambda device: (device.vendor.lower(),)),
    MatchKey("product", _hex_digits, lambda device: (device.product.lower(),)),
    MatchKey("class", _class, _classes_of),
    MatchKey("kind", _kind, lambda device: (device.kind,)),
    MatchKey("speed", _speed, lambda device: (device.speed,)),
    MatchKey("serial", shell_pattern, lambda device: (device.serial,)),
    MatchKey("manufacturer", shell_pattern, lambda device: (device.manufacturer,)),
    MatchKey("model", shell_pattern, lambda device: (device.model,)),
    MatchKey("busid", shell_pattern, lambda device: (device.bus_id,)),
    MatchKey("path", shell_pattern, lambda device: (device.path,)),
)
"""In the order in which they are examined: the cheap ones first, so that most rules cost one look-up."""

_INDEX = {key.name: index for index, key in enumerate(MATCH_KEYS)}
_NOT = "not"
_SEE_INTERFACES = "00"


def traits_of(device: Device) -> Traits:
    """What *device* says, gathered once for all the rules that are then examined."""
    return tuple(key.values_of(device) for key in MATCH_KEYS)


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Why a rule does not match: ``serial is "0123", not "01A*"``."""

    why: str

    def __str__(self) -> str:
        return self.why


@dataclass(frozen=True, slots=True)
class Condition:
    """One key and the values of which any will do."""

    index: int
    """Into MATCH_KEYS, and into a device's traits."""
    wanted: tuple[Wanted, ...]

    @property
    def key(self) -> str:
        return MATCH_KEYS[self.index].name

    def holds(self, traits: Traits) -> bool:
        for text in traits[self.index]:
            for wanted in self.wanted:
                if wanted.holds(text):
                    return True
        return False

    def finding(self, traits: Traits) -> str:
        """``vendor 10c4``: the key with the wanted value that holds."""
        texts = traits[self.index]
        return f"{self.key} {next(each.shown for each in self.wanted if any(map(each.holds, texts)))}"

    @property
    def wish(self) -> str:
        """``class hid or audio``: the key with all wanted values."""
        return f"{self.key} {self._listed_wishes()}"

    def mismatch(self, traits: Traits) -> Mismatch:
        # A device's class 00 means "see the interfaces": beside those it would only puzzle.
        texts = [text for text in traits[self.index] if text != _SEE_INTERFACES] or traits[self.index]
        actual = listed([self._shown(text) for text in texts])
        return Mismatch(f"{self.key} is {actual}, not {self._listed_wishes()}")

    def _listed_wishes(self) -> str:
        return listed([each.shown for each in self.wanted], "or")

    def _shown(self, text: str) -> str:
        if self.key == "class":
            return CLASS_NAMES.get(int(text, 16), text)
        return text if self.key in ("vendor", "product", "kind", "speed") else quoted(text)


@dataclass(frozen=True, slots=True)
class Match:
    """All *conditions* must hold, and not all of the *exceptions* (the keys under ``not``, if any)."""

    conditions: tuple[Condition, ...] = ()
    exceptions: tuple[Condition, ...] = ()

    @classmethod
    def of(cls, conditions: Dictionary[str, str | Sequence[str]],
           exceptions: Dictionary[str, str | Sequence[str]] | None = None) -> Match:
        """A match from texts as they stand in a file; *exceptions* = ``not``. Raises ValueError, KeyError."""
        return cls(_conditions_of(conditions), _conditions_of(exceptions or {}))

    def holds(self, traits: Traits) -> bool:
        """Whether it matches a device of these *traits*; the fast way, without reasons."""
        for condition in self.conditions:
            if not condition.holds(traits):
                return False
        return not self.exceptions or not _all_hold(self.exceptions, traits)

    def examine(self, device: Device) -> Mismatch | None:
        """None when it matches *device*, else the first reason why not."""
        return self.examine_traits(traits_of(device))

    def examine_traits(self, traits: Traits) -> Mismatch | None:
        """As ``examine``, for traits that were gathered before."""
        for condition in self.conditions:
            if not condition.holds(traits):
                return condition.mismatch(traits)
        if self.exceptions and _all_hold(self.exceptions, traits):
            found = ", ".join(each.finding(traits) for each in self.exceptions)
            return Mismatch(f"the exception holds: {found}")
        return None

    def findings(self, traits: Traits) -> tuple[str, ...]:
        """What of it holds, key by key; only asked when it matches."""
        held = tuple(condition.finding(traits) for condition in self.conditions)
        failed = (each for each in self.exceptions if not each.holds(traits))
        return (*held, f"not {{{next(failed).wish}}}") if self.exceptions else held


EVERYTHING = Match()


def holding(findings: Sequence[str]) -> str:
    """``vendor 10c4, product ea60 hold``; ``every device`` where nothing was asked."""
    if not findings:
        return "every device"
    return f"{', '.join(findings)} {'hold' if len(findings) > 1 else 'holds'}"


def _all_hold(conditions: tuple[Condition, ...], traits: Traits) -> bool:
    return all(condition.holds(traits) for condition in conditions)


def _conditions_of(wanted: Dictionary[str, str | Sequence[str]]) -> tuple[Condition, ...]:
    conditions = []
    for name, values in wanted.items():
        parse = MATCH_KEYS[_INDEX[name]].parse
        texts = (values,) if isinstance(values, str) else values
        conditions.append(Condition(_INDEX[name], tuple(parse(text) for text in texts)))
    return tuple(sorted(conditions, key=lambda condition: condition.index))


def read_match(entry: Entry, problems: Problems) -> Match | None:
    """A rule's ``match``. An empty one is an error: it would match every device, which no ``match`` says."""
    mapping = _filled_mapping(entry, problems, "it would match every device; leave match out to mean that")
    if mapping is None:
        return None
    refuse_unknown(mapping, [*_INDEX, _NOT], problems, what="match")
    exceptions: tuple[Condition, ...] = ()
    if inner := mapping.get(_NOT):
        negated = _filled_mapping(inner, problems, "nothing is excepted")
        if negated is not None:
            refuse_unknown(negated, list(_INDEX), problems, what="not")
            exceptions = _read_conditions(negated, problems)
    return Match(_read_conditions(mapping, problems), exceptions)


def _filled_mapping(entry: Entry, problems: Problems, when_empty: str) -> Mapping | None:
    value = entry.value
    if isinstance(value, Scalar) and value.is_missing or isinstance(value, Mapping) and not value.entries:
        problems.add(entry.place, f"{entry.name}: empty, {when_empty}")
        return None
    return mapping_of(entry, problems)


def _read_conditions(mapping: Mapping, problems: Problems) -> tuple[Condition, ...]:
    conditions = []
    for index, key in enumerate(MATCH_KEYS):
        if entry := mapping.get(key.name):
            wanted = one_or_more(key.parse)(entry, problems)
            if wanted:
                conditions.append(Condition(index, wanted))
    return tuple(conditions)
