"""Through which network interfaces the way to an address goes, as the kernel itself would send.

Asked by rtnetlink (include/uapi/linux/rtnetlink.h), which takes no privilege and sends nothing.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Protocol

from usbip_agent.errors import KernelFault
from usbip_agent.kernel import sysfs

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")  # rtattr: length, type
_ROUTE = struct.Struct("=BBBBBBBBI")  # rtmsg: family, 2 lengths, tos, table, protocol, scope, type, flags

_ERROR, _DONE, _NEW_ROUTE, _GET_ROUTE = 2, 3, 24, 26
_REQUEST, _DUMP = 0x1, 0x300
_DESTINATION, _INTERFACE, _GATEWAY, _MULTIPATH, _VIA = 1, 4, 5, 9, 18
_UNICAST = 1
_DEADLINE = 2.0
_BUFFER = 1 << 16
_NO_WAY = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL, errno.ESRCH}

Attributes = dict[int, bytes]


class Routes(Protocol):
    """What is asked of the routing tables."""

    def interface_to(self, address: str) -> str:
        """The interface by which a packet to *address* would leave; empty when it would not."""

    def uplinks(self) -> frozenset[str]:
        """The interfaces by which the rest of the world is reached: of default routes and of gateways."""


class KernelRoutes:
    """The kernel's routing tables. Raises KernelFault when they cannot be read."""

    def interface_to(self, address: str) -> str:
        parsed = ip_address(address)
        if isinstance(parsed, IPv6Address) and parsed.scope_id:
            return parsed.scope_id  # a link-local address says itself by which interface
        family = socket.AF_INET6 if parsed.version == 6 else socket.AF_INET
        route = _ROUTE.pack(family, parsed.max_prefixlen, 0, 0, 0, 0, 0, 0, 0)
        request = route + _ATTRIBUTE.pack(_ATTRIBUTE.size + len(parsed.packed), _DESTINATION) + parsed.packed
        for _, attributes in _ask(request, _REQUEST):
            return next(_interfaces(attributes), "")
        return ""

    def uplinks(self) -> frozenset[str]:
        found: set[str] = set()
        for family in (socket.AF_INET, socket.AF_INET6):
            for fields, attributes in _ask(_ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0), _REQUEST | _DUMP):
                leads_on = fields[1] == 0 or attributes.keys() & {_GATEWAY, _VIA, _MULTIPATH}
                if fields[7] == _UNICAST and leads_on:
                    found.update(_interfaces(attributes))
        return frozenset(found - {"lo"})


def carriers(interface: str, routes: Routes, net: Path = sysfs.SYSFS / "class/net") -> frozenset[str]:
    """The network interfaces that carry what leaves by *interface*: itself, and what is below it.

    A bridge, a bond and a VLAN name their members (``lower_eth1``). What a tunnel goes through it does not
    say: then every uplink may be it.
    """
    found, todo = {interface}, [interface]
    while todo:
        for lower in _lower(net / todo.pop()) - found:
            found.add(lower)
            todo.append(lower)
    is_tunnel = len(found) == 1 and interface != "lo" and "/virtual/" in str((net / interface).resolve())
    return frozenset(found) | (routes.uplinks() if is_tunnel else frozenset())


def _lower(directory: Path) -> set[str]:
    try:
        return {entry.name.removeprefix("lower_") for entry in directory.iterdir()
                if entry.name.startswith("lower_")}
    except OSError:
        return set()


def _ask(request: bytes, flags: int) -> Iterator[tuple[tuple[int, ...], Attributes]]:
    """The routes that the kernel answers *request* with: rtmsg and attributes of each. KernelFault."""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as link:
            link.settimeout(_DEADLINE)
            link.send(_HEADER.pack(_HEADER.size + len(request), _GET_ROUTE, flags, 1, 0) + request)
            while True:
                for kind, payload in _messages(link.recv(_BUFFER)):
                    if kind == _DONE or kind == _ERROR:
                        _raise_unless_no_way(payload if kind == _ERROR else b"")
                        return
                    if kind == _NEW_ROUTE:
                        yield _ROUTE.unpack_from(payload), _attributes(payload[_ROUTE.size:])
                if not flags & _DUMP:
                    return
    except OSError as error:
        raise KernelFault(f"the routing tables: {error}", errno=error.errno or errno.EIO) from None


def _raise_unless_no_way(payload: bytes) -> None:
    number = -struct.unpack_from("=i", payload)[0] if len(payload) >= 4 else 0
    if number and number not in _NO_WAY:
        raise KernelFault(f"the routing tables: {os.strerror(number)}", errno=number)


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind = _HEADER.unpack_from(data, offset)[:2]
        if length < _HEADER.size:
            return
        yield kind, data[offset + _HEADER.size:offset + length]
        offset += length + 3 & ~3


def _attributes(data: bytes) -> Attributes:
    found, offset = {}, 0
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size:
            break
        found[kind] = data[offset + _ATTRIBUTE.size:offset + length]
        offset += length + 3 & ~3
    return found


def _interfaces(attributes: Attributes) -> Iterator[str]:
    """The names of the interfaces of a route; of a multipath one all (struct rtnexthop)."""
    indices = [struct.unpack("=I", attributes[_INTERFACE])[0]] if _INTERFACE in attributes else []
    hops, offset = attributes.get(_MULTIPATH, b""), 0
    while offset + 8 <= len(hops):
        length, _flags, _hops, index = struct.unpack_from("=HBBi", hops, offset)
        indices.append(index)
        offset += max(8, length + 3 & ~3)
    for index in indices:
        try:
            yield socket.if_indextoname(index)
        except OSError:
            pass  # it went away
