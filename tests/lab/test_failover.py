"""Which host a device goes to: the next of the list, back to the first, or wherever DNS says."""
from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from . import encrypted, product
from .conftest import running
from .devices import Stick
from .guest import Guest
from .machine import State
from .pair import Pair
from .product import AGENT, SLOW, USBIPA

DEAD_AFTER = 4
FAILBACK = 10           # seconds; the shortest there is
SERVICE = "_usbipa._tcp.example.net"
ZONE = "/root/zone"
SILENT = "fd77::dead"


@pytest.fixture
def trio(prepared: Mapping[str, State], request: pytest.FixtureRequest) -> Iterator[Pair]:
    """A fresh node with two hosts that accept everything, running. The second begins as the first does."""
    for guests in running({**prepared, "backup": prepared["host"]}, request):
        for name in ("host", "backup"):
            product.configure(guests[name], USBIPA, product.usbipa_yaml())
        yield guests


def host_entry(name: str, address: str, more: str = "") -> str:
    return f"  {name}: {{address: \"{address}\", transport: {product.TRANSPORT}{more}}}\n"


def until_at(node: Guest, busid: str, place: Guest) -> None:
    """Waits until the agent says that the device is connected to *place*, and has it there."""
    address = f"{place.identity.ipv4}|\\[{place.identity.ipv6}\\]"
    node.until(f"{product.property_of(busid, 'Peer')} | grep -qE '({address}):3240'", SLOW)
    product.until_state(node, busid, "connected")
    product.until_attached(place)


def now(guest: Guest) -> int:
    """The guest's clock, in microseconds, as the product's times are."""
    return int(guest.sh("date +%s%6N"))


def test_failover_and_failback(trio: Pair) -> None:
    """A host that falls silent, and is back later with an import that is none any more."""
    node, host, backup = trio.node, trio.host, trio["backup"]
    dead_after = f", dead_after: {DEAD_AFTER}s"
    product.configure(node, AGENT, product.agent_yaml(
        f"{{match: {{vendor: 46f4}}, connect: [first, second], failback: {FAILBACK}s}}",
        more_hosts=host_entry("first", "host", dead_after) + host_entry("second", "backup", dead_after)))
    stick = Stick()
    busid = node.plug(stick, 1)
    until_at(node, busid, host)

    host.freeze()
    until_at(node, busid, backup)
    assert product.devices(node)[busid]["host"] == "second"
    assert backup.disk_hash(stick) == stick.sha256

    back = now(node)
    host.thaw()
    until_at(node, busid, host)
    product.until_host_clean(backup)
    shown = product.devices(node)[busid]
    assert shown["host"] == "first"
    assert shown["since"] - back >= FAILBACK * 1_000_000
    host.sh("echo 3 > /proc/sys/vm/drop_caches")
    assert host.disk_hash(stick) == stick.sha256
    node.unplug(stick)
    product.until_clean(trio)
    assert backup.dmesg_warnings() == []


def test_steered_from_dns(trio: Pair) -> None:
    """SRV records name the host; what they say anew counts at once, although the next attempt is far away."""
    node, host, backup = trio.node, trio.host, trio["backup"]
    node.put("/etc/resolv.conf", f"nameserver {backup.address}\n")
    # Packets to it go to nobody: an address that is preferred, and silent.
    node.sh(f"ip neigh add {SILENT} lladdr 52:54:00:77:de:ad dev eth0 nud permanent")
    server = encrypted.started(backup, serve_names, backup.address, ZONE)
    one, two = f"one.example.net. 1 IN A {host.address}", f"two.example.net. 1 IN A {backup.address}"

    def answer(*targets: str, addresses: tuple[str, ...] = (one, two)) -> None:
        services = [f"{SERVICE}. 1 IN SRV {number} 0 3240 {target}.example.net."
                    for number, target in enumerate(targets)]
        backup.put(ZONE + ".new", "\n".join([*addresses, *services]))
        backup.sh(f"mv {ZONE}.new {ZONE}")

    answer("one", addresses=(one, f"one.example.net. 1 IN AAAA {SILENT}"))
    server.wait_for("answering", SLOW)
    product.configure(node, AGENT, product.agent_yaml(
        "{match: {vendor: 46f4}, connect: fleet}", more_hosts=host_entry("fleet", f"srv:{SERVICE}")))
    stick = Stick()
    busid = node.plug(stick, 1)
    until_at(node, busid, host)

    host.sh("systemctl stop usbipa", SLOW)
    product.until_reason(node, busid, "connection refused")
    planned = wait_long(node, busid)
    answer("two", "one")
    until_at(node, busid, backup)
    assert product.devices(node)[busid]["since"] < planned
    assert backup.disk_hash(stick) == stick.sha256
    node.unplug(stick)
    product.until_node_clean(node)
    product.until_host_clean(backup)


def serve_names(address: str, zone: str) -> None:
    """A name server that reads its zone anew for each question."""
    import socket
    import dns.message
    import dns.rdatatype
    import dns.rrset

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((address, 53))
        print("answering", flush=True)
        while True:
            wire, peer = sock.recvfrom(4096)
            question = dns.message.from_wire(wire)
            answer = dns.message.make_response(question)
            asked = question.question[0]
            with open(zone) as file:
                lines = [line.split(None, 4) for line in file]
            values = [(int(ttl), value) for name, ttl, _, kind, value in lines
                      if name == str(asked.name) and kind == dns.rdatatype.to_text(asked.rdtype)]
            if values:
                answer.answer.append(dns.rrset.from_text(
                    asked.name, values[0][0], "IN", asked.rdtype, *(value for _, value in values)))
            sock.sendto(answer.to_wire(), peer)


def wait_long(node: Guest, busid: str, least: int = 30) -> int:
    """Has the agent try in vain until its next attempt is *least* seconds away; when it is, in microseconds.

    A reload tries at once what waits, and the delays go on doubling: so nobody has to wait for them.
    """
    for _ in range(10):
        product.until_state(node, busid, "waiting")
        planned = int(node.sh(product.property_of(busid, "NextAttempt")).split()[1])
        if planned - now(node) > least * 1_000_000:
            return planned
        product.reload(node, AGENT)
    raise AssertionError(f"the delays do not grow: {planned}")


def test_the_network_is_back(pair: Pair) -> None:
    """A cable that is plugged in again ends the wait for the next attempt."""
    node, host = pair.node, pair.host
    product.set_up(pair)
    node.cut()
    stick = Stick()
    busid = node.plug(stick, 1)
    product.until_reason(node, busid, "unreachable|no route")
    planned = wait_long(node, busid)
    assert node.disk_hash(stick) == stick.sha256        # usable here meanwhile
    node.mend()
    until_at(node, busid, host)
    assert product.devices(node)[busid]["since"] < planned
    node.unplug(stick)
    product.until_clean(pair)
