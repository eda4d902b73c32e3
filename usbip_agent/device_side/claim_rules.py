"""The udev rules that mark what the policy connects, so that automounters and the like never touch it. Pure.

udev knows less of a device than we do, and has another idea of patterns. So a rule is not translated but
bounded: of a ``connect`` rule stands there what certainly matches, of an ``ignore`` rule what possibly does.
A device is marked less often than it is connected, never the other way round; policy order is kept, as the
first line that matches jumps to the end. Without its mark a device is connected all the same.

What comes from the configuration is either made of harmless characters or left out: nothing is escaped. A
backslash, a double quote and a ``|`` have no spelling that all of udev's releases read in the same way.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from itertools import product

from usbip_agent.device import BUS_ID, Kind, Speed
from usbip_agent.policy.agent import AgentPolicy, ConnectRule
from usbip_agent.policy.match import Condition
from usbip_agent.policy.patterns import Wanted

UDEV_CLAIMED = "USBIP_AGENT_CLAIMED"
"""The udev property that is the mark."""

Line = tuple[str, ...]
"""Terms that all must hold; none = always."""
Lines = tuple[Line, ...]
"""Of which any must hold; none = never."""

NEVER: Lines = ()
ALWAYS: Lines = ((),)

_END, _MARKS, _DEVICE = "usbip_agent_claims_end", "usbip_agent_claims_marks", "usbip_agent_claims_device"
_CLAIM: Line = (f'ENV{{{UDEV_CLAIMED}}}="1"', f'GOTO="{_MARKS}"')
_IGNORE: Line = (f'GOTO="{_END}"',)
_FLAG = "ENV{.USBIP_AGENT_RULE}"
"""A property that udev forgets after the event, for its dot."""

_MOST_LINES = 64
_LONGEST_VALUE = 1000
"""Lines that one rule may become, characters of one term: udev skips lines from 16 KiB on."""

_HARMLESS = re.compile(r"[ !#-\[\]-{}~]*")
"""Printable ASCII without ``"``, ``\\`` and ``|``."""
_RANGE = re.compile(r"\[!?(?:0-9|a-z|A-Z|a-f|A-F|[A-Za-z0-9])+\]")
"""The sets that mean the same to fnmatch(3) and to Python; others differ in their corners."""
_FOREIGN = "*[! -~]*| *"
"""What udev may see otherwise than we do: bytes beyond ASCII, and the leading blanks that we strip."""

_TEXTS = {"serial": "serial", "manufacturer": "manufacturer", "model": "product"}
"""Keys whose texts come from the device, with their sysfs attributes."""
_PROPERTIES = {"busid": "KERNEL", "path": "ENV{ID_PATH}"}
"""Keys whose texts the system makes: never foreign, never missing."""
_MEGABITS = {
    Speed.LOW: "1.5", Speed.FULL: "12", Speed.HIGH: "480", Speed.SUPER: "5000",
    Speed.SUPER_PLUS: "10000|20000"}

_HEAD = f"""\
# Made by usbip-agent from its configuration, and made anew when that changes. It marks what a rule connects.

ACTION=="remove", GOTO="{_END}"
DEVPATH!="*/usb[0-9]*/*", GOTO="{_END}"
DEVPATH=="*/vhci_hcd.*", GOTO="{_END}"
"""
_CHILDREN = f"""\
SUBSYSTEM=="usb", ENV{{DEVTYPE}}=="usb_device", GOTO="{_DEVICE}"
# Whatever hangs on a marked device inherits the mark, from parent to child.
IMPORT{{parent}}="{UDEV_CLAIMED}"
GOTO="{_MARKS}"

LABEL="{_DEVICE}"
ATTR{{bDeviceClass}}=="09", GOTO="{_END}"
ENV{{ID_PATH}}=="", IMPORT{{builtin}}="path_id"
"""
_TAIL = f"""\
GOTO="{_END}"

# NetworkManager is not told (NM_UNMANAGED): the card may turn out to carry the only way to the host.
LABEL="{_MARKS}"
ENV{{{UDEV_CLAIMED}}}!="1", GOTO="{_END}"
ENV{{ID_MM_DEVICE_IGNORE}}="1"
SUBSYSTEM=="block", ENV{{UDISKS_IGNORE}}="1", ENV{{UDISKS_AUTO}}="0"
SUBSYSTEM=="usb", ENV{{MTP_NO_PROBE}}="1"
SUBSYSTEM=="sound", ENV{{PULSE_IGNORE}}="1", ENV{{ACP_IGNORE}}="1"
LABEL="{_END}"
"""


def claim_rules(policy: AgentPolicy, held: Collection[str] = ()) -> str:
    """The rules file for *policy*; empty when nothing would be marked.

    *held* are the busids that are not to be marked just now: what somebody has disconnected by hand to use it
    here is an ordinary device again.
    """
    rules = list(_rule_lines(policy))
    if not any(_CLAIM[0] in line for line in rules):
        return ""
    exempt = [_joined((f'SUBSYSTEMS=="usb", KERNELS=="{bus_id}"', *_IGNORE))
              for bus_id in sorted(held) if BUS_ID.fullmatch(bus_id)]
    return "".join((_HEAD, *exempt, _CHILDREN, *rules, _TAIL))


def _rule_lines(policy: AgentPolicy) -> Iterator[str]:
    for number, rule in enumerate(policy.rules, start=1):
        lines, exceptions = _bounds(rule)
        if not lines or () in exceptions:
            continue  # it can never hold, as far as udev can tell
        yield f"# rule {number}\n"
        yield from _examined(lines, exceptions, str(number), _CLAIM if rule.hosts else _IGNORE)
        if () in lines and not exceptions:
            return
    if policy.default_hosts:
        yield "# default\n"
        yield _joined(_CLAIM)


def _bounds(rule: ConnectRule) -> tuple[Lines, Lines]:
    """The match of *rule* and its exceptions: at most it for ``connect``, at least it for ``ignore``."""
    ignores = not rule.hosts
    exceptions = _all_of(rule.match.exceptions, widen=not ignores) if rule.match.exceptions else NEVER
    return _all_of(rule.match.conditions, widen=ignores), exceptions


def _examined(lines: Lines, exceptions: Lines, number: str, verdict: Line) -> Iterator[str]:
    if not exceptions:
        yield from (_joined((*line, *verdict)) for line in lines)
        return
    yield from (_joined((*line, f'{_FLAG}="{number}"')) for line in lines)
    yield from (_joined((f'{_FLAG}=="{number}"', *line, f'{_FLAG}=""')) for line in exceptions)
    yield _joined((f'{_FLAG}=="{number}"', *verdict))


def _joined(terms: Iterable[str]) -> str:
    return ", ".join(terms) + "\n"


def _all_of(conditions: tuple[Condition, ...], *, widen: bool) -> Lines:
    """All *conditions*, as udev can tell them; with *widen* what cannot be told holds, else it does not."""
    each = [_told(condition, widen) for condition in conditions]
    count = 1
    for lines in each:
        count *= len(lines)
    if count > _MOST_LINES:
        return ALWAYS if widen else NEVER
    return tuple(tuple(term for line in combination for term in line) for combination in product(*each))


def _told(condition: Condition, widen: bool) -> Lines:
    exact = [wanted.exact for wanted in condition.wanted]
    match condition.key:
        case "vendor":
            return _any_of("ATTR{idVendor}", exact)
        case "product":
            return _any_of("ATTR{idProduct}", exact)
        case "class":
            return (*_any_of("ENV{ID_USB_INTERFACES}", [f"*:{code}????:*" for code in exact]),
                    *_any_of("ATTR{bDeviceClass}", exact))
        case "kind":
            return ALWAYS if Kind.USB in exact else NEVER
        case "speed":
            return _any_of("ATTR{speed}", [_MEGABITS[Speed(speed)] for speed in exact])
        case key if key in _PROPERTIES:
            return _told_property(_PROPERTIES[key], condition.wanted, widen)
        case key if key in _TEXTS:
            return _told_text(_TEXTS[key], condition.wanted, widen)
    return ALWAYS if widen else NEVER  # a key that is newer than this table


def _any_of(name: str, values: list[str]) -> Lines:
    """One line, or as many as the length of all *values* makes necessary."""
    lines, joined = [], ""
    for value in values:
        if joined and len(joined) + len(value) >= _LONGEST_VALUE:
            lines.append((f'{name}=="{joined}"',))
            joined = ""
        joined = f"{joined}|{value}" if joined else value
    return (*lines, (f'{name}=="{joined}"',)) if joined else tuple(lines)


def _told_property(name: str, all_wanted: tuple[Wanted, ...], widen: bool) -> Lines:
    if widen and not all(map(_is_expressible, all_wanted)):
        return ALWAYS
    told = [wanted.exact for wanted in all_wanted if _is_expressible(wanted)]
    empty: Lines = ((f'{name}==""',),) if "" in told else NEVER
    return _any_of(name, [text for text in told if text]) + empty


def _told_text(attribute: str, all_wanted: tuple[Wanted, ...], widen: bool) -> Lines:
    """The texts that a device gives of itself. An attribute that is missing matches nothing, not even ``!=``.

    Where udev and we may see something different, *widen* takes it in, else only exact texts are certain.
    """
    name = f"ATTR{{{attribute}}}"
    if any(set(wanted.exact) == {"*"} for wanted in all_wanted):
        return ALWAYS
    if widen and not all(map(_is_expressible, all_wanted)):
        return ALWAYS
    told = [wanted for wanted in all_wanted if _is_expressible(wanted)]
    plain = [wanted.exact for wanted in told if wanted.pattern is None and wanted.exact]
    patterns = [wanted.exact for wanted in told if wanted.pattern is not None]
    lines = _any_of(name, plain)
    if any(not wanted.exact for wanted in told):
        lines += ((f'{name}==""',), (f'TEST!="{attribute}"',))
    if widen:
        return lines + _any_of(name, patterns) + ((f'{name}=="{_FOREIGN}"',),)
    return lines + tuple((*line, f'{name}!="{_FOREIGN}"') for line in _any_of(name, patterns))


def _is_expressible(wanted: Wanted) -> bool:
    """Whether udev's fnmatch sees in it what we see, for a text of printable ASCII."""
    text = wanted.exact
    if text != text.strip() or not _HARMLESS.fullmatch(text):
        return False
    return wanted.pattern is None or "[" not in _RANGE.sub("", text)
