"""Who may call what: the table that every call has to pass, and the methods that are ours.

What is not in a table does not exist. What is in it says who may call it, and there is no default for that.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum, Flag, auto
from typing import Any

from usbip_agent.bus.marshalling import Message, variant
from usbip_agent.bus.operations import (
    AgentOperations, ConnectOptions, DisconnectOptions, EnrolledNode, EnrolmentOperations, UsbipaOperations)
from usbip_agent.bus.paths import child_path
from usbip_agent.bus.values import shown, variants_of_explanation
from usbip_agent.errors import UnavailableFault, UsageFault
from usbip_agent.names import AGENT, USBIPA


class Access(Enum):
    """Who may call a method."""

    ANYONE = auto()
    """Every local user. Such a method only reads, and answers at once."""

    PRIVILEGED = auto()
    """root."""


class Place(Flag):
    """Kinds of object paths."""

    NOWHERE = auto()
    """No object of ours; every connection answers Ping there nevertheless."""
    FOLDER = auto()
    """A path that only leads to objects."""
    MANAGER = auto()
    CHILD = auto()


@dataclass(frozen=True, slots=True)
class Argument:
    name: str
    signature: str


@dataclass(frozen=True, slots=True)
class Method:
    """One row: what is called, where, by whom, with and for what, and who does it."""

    interface: str
    name: str
    places: Place
    access: Access
    takes: tuple[Argument, ...]
    gives: tuple[Argument, ...]
    run: Callable[[Message], list[Any]] | Callable[[Message], Awaitable[list[Any]]]
    """ANYONE: answers with the reply's body. PRIVILEGED: likewise, but is awaited in a task of its own."""

    @property
    def signature(self) -> str:
        return "".join(argument.signature for argument in self.takes)

    @property
    def answer_signature(self) -> str:
        return "".join(argument.signature for argument in self.gives)


_BUS_ID = Argument("busid", "s")
_OPTIONS = Argument("options", "a{sv}")


def agent_methods(operations: AgentOperations) -> tuple[Method, ...]:
    """``org.usbip.Agent1.Manager``."""
    async def connect(call: Message) -> list[Any]:
        bus_id, host, options = call.body
        port = _port_option(options)
        exported = await operations.connect(bus_id, host, ConnectOptions(
            port=port, vudc=_boolean_option(options, "vudc", known=("port", "vudc"))))
        return [child_path(AGENT, exported)]

    async def disconnect(call: Message) -> list[Any]:
        bus_id, options = call.body
        await operations.disconnect(bus_id, DisconnectOptions(
            vudc=_boolean_option(options, "vudc", known=("vudc",))))
        return []

    async def reload(call: Message) -> list[Any]:
        await operations.reload()
        return []

    def explain(call: Message) -> list[Any]:
        return [variants_of_explanation(operations.explain(call.body[0]))]

    interface, place = AGENT.manager_interface, Place.MANAGER
    return (
        Method(interface, "Connect", place, Access.PRIVILEGED,
               (_BUS_ID, Argument("host", "s"), _OPTIONS), (Argument("device", "o"),), connect),
        Method(interface, "Disconnect", place, Access.PRIVILEGED, (_BUS_ID, _OPTIONS), (), disconnect),
        Method(interface, "Reload", place, Access.PRIVILEGED, (), (), reload),
        Method(interface, "Explain", place, Access.ANYONE,
               (_BUS_ID,), (Argument("explanation", "a{sv}"),), explain),
    )


def usbipa_methods(operations: UsbipaOperations) -> tuple[Method, ...]:
    """``org.usbip.Usbipa1.Manager``."""
    async def detach(call: Message) -> list[Any]:
        port, options = call.body
        _check_known(options, ())
        await operations.detach(port)
        return []

    async def reload(call: Message) -> list[Any]:
        await operations.reload()
        return []

    interface, place = USBIPA.manager_interface, Place.MANAGER
    return (
        Method(interface, "Detach", place, Access.PRIVILEGED, (Argument("port", "u"), _OPTIONS), (), detach),
        Method(interface, "Reload", place, Access.PRIVILEGED, (), (), reload),
        *_enrolment_methods(operations),
    )


def _enrolment_methods(operations: object) -> tuple[Method, ...]:
    """The part of ``org.usbip.Usbipa1.Manager`` that deals with nodes. Their addresses are for root alone."""
    def desk() -> EnrolmentOperations:
        if not isinstance(operations, EnrolmentOperations):
            raise UnavailableFault("this usbipa enrols no nodes")
        return operations

    async def enroll(call: Message) -> list[Any]:
        node, options = call.body
        _check_known(options, ("host", "port"))
        return [await desk().enroll(node, _text_option(options, "host"), _port_option(options))]

    async def list_nodes(call: Message) -> list[Any]:
        return [[_variants_of_node(node) for node in desk().nodes()]]

    async def revoke(call: Message) -> list[Any]:
        await desk().revoke(call.body[0])
        return []

    interface, place, node = USBIPA.manager_interface, Place.MANAGER, Argument("node", "s")
    return (
        Method(interface, "Enroll", place, Access.PRIVILEGED,
               (node, _OPTIONS), (Argument("code", "s"),), enroll),
        Method(interface, "ListNodes", place, Access.PRIVILEGED,
               (), (Argument("nodes", "aa{sv}"),), list_nodes),
        Method(interface, "Revoke", place, Access.PRIVILEGED, (node,), (), revoke),
    )


def _variants_of_node(node: EnrolledNode) -> dict[str, Any]:
    return {
        "Name": variant("s", shown(node.name)),
        "Fingerprint": variant("s", shown(node.fingerprint)),
        "Enrolled": variant("t", max(0, node.enrolled)),
        "LastSeen": variant("t", max(0, node.last_seen)),
        "LastPeer": variant("s", shown(node.last_peer)),
    }


def _check_known(options: dict[str, Any], known: tuple[str, ...]) -> None:
    for name in options:
        if name not in known:
            takes = f"known: {', '.join(known)}" if known else "this call takes none"
            raise UsageFault(f"unknown option {shown(name)!r}", hint=takes)


def _boolean_option(options: dict[str, Any], name: str, *, known: tuple[str, ...]) -> bool:
    _check_known(options, known)
    if name not in options:
        return False
    if options[name].signature != "b":
        raise _wrong_type(name, options[name].signature, "a boolean, 'b'")
    return bool(options[name].value)


def _text_option(options: dict[str, Any], name: str) -> str | None:
    if name not in options:
        return None
    if options[name].signature != "s":
        raise _wrong_type(name, options[name].signature, "a text, 's'")
    return str(options[name].value)


def _wrong_type(name: str, signature: str, takes: str) -> UsageFault:
    return UsageFault(f"option {name!r} is of type {signature!r}", hint=f"it takes {takes}")


def _port_option(options: dict[str, Any]) -> int | None:
    if "port" not in options:
        return None
    if options["port"].signature not in ("u", "q", "i"):
        raise _wrong_type("port", options["port"].signature, "a number, 'u'")
    port = int(options["port"].value)
    if not 0 < port <= 0xFFFF:
        raise UsageFault(f"there is no TCP port {port}", hint="1 to 65535")
    return port
