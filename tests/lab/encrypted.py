"""Encrypted ways between the guests: enrolment, captures of the cable, firewalls, Python that runs there."""
from __future__ import annotations

import hashlib
import inspect
import json
import textwrap
from contextlib import contextmanager
from typing import Any, Callable, Iterator

from . import product
from .channel import Job
from .devices import Stick
from .guest import Guest
from .pair import Pair
from .product import AGENT, SLOW, USBIPA

NODE = "pi-kitchen"         # what the host calls the node
HOST = "host"               # what the host calls itself, and so the node calls the host
ACCEPT = f"{{name: kitchen, node: {NODE}, accept: true}}"
RULE = "{name: sticks, match: {vendor: 46f4}, connect: host}"
MARKER = b"USB-IN-CLEAR-ON-THE-CABLE-7e1b"
SERIAL = "SN4CLEARTEXT"
SIZE = 4 << 20
EVERY = 4096
TLS_OFF = "/etc/modprobe.d/no-tls.conf"
CAPTURE = "/root/cable.pcap"


class MarkedStick(Stick):
    """A stick whose content and serial number are known, to be looked for where they must not be."""

    def __init__(self, size: int = SIZE, serial: str = SERIAL) -> None:
        super().__init__(size, serial)
        total = hashlib.sha256()
        with self.path.open("r+b") as content:
            for start in range(0, size, EVERY):
                content.seek(start)
                content.write(MARKER)
            content.seek(0)
            while piece := content.read(1 << 20):
                total.update(piece)
        self.sha256 = total.hexdigest()


# Configuration and enrolment

def listen(host: Guest, *transports: str, rules: tuple[str, ...] = (ACCEPT,), more: str = "") -> None:
    """Has usbipa listen on port 3240 for these transports (``tls`` without), and take what *rules* say."""
    keys = f", transports: [{', '.join(transports)}]" if transports else ""
    lines = ["version: 1", "listen:", f"  - {{address: \"*\"{keys}{more}}}"]
    lines += ["rules:", *(f"  - {rule}" for rule in rules), ""]
    product.configure(host, USBIPA, "\n".join(lines))


def invite(host: Guest, node: str = NODE, where: str = "host") -> str:
    """A join code, as ``usbipa enroll`` prints it."""
    return host.run(["usbipa", "enroll", node, "--host", where], SLOW).stdout


def enrol(pair: Pair, *options: str, where: str = "host") -> None:
    """Enrols the node as the README says, and has the agent connect sticks to the host."""
    joined = pair.node.run(["usbip-agent", "join", invite(pair.host, where=where), *options], SLOW)
    assert f"enrolled as {NODE} at {HOST}" in joined.stdout
    product.configure(pair.node, AGENT, f"version: 1\nrules:\n  - {RULE}\n")


def connected(pair: Pair, stick: Stick, transport: str, port: int = 1) -> str:
    """Plugs *stick* in and waits until the host has it, by *transport*; returns its busid."""
    busid = pair.node.plug(stick, port)
    product.until_state(pair.node, busid, "connected")
    assert product.devices(pair.node)[busid]["transport"] == transport
    product.until_attached(pair.host)
    return busid


def last_seen(host: Guest, node: str = NODE) -> tuple[int, str]:
    """When and from where ``usbipa nodes`` saw a node last."""
    nodes = host.run(["usbipa", "nodes", "--json"], SLOW).json["nodes"]
    [found] = [each for each in nodes if each["name"] == node]
    return found["last_seen"], found["last_peer"]


def until_clean(pair: Pair) -> None:
    """Waits until nothing is exported and imported any more; neither kernel has complained."""
    pair.host.until(f"! {product.TAKEN_PORTS}", SLOW)
    pair.node.until(f"! ls -d {product.STUB}/[0-9]*-*", SLOW)
    for guest, service in ((pair.node, AGENT), (pair.host, USBIPA)):
        guest.until(f"[ -z \"$(ls -A {product.RECORDS[service]})\" ]", SLOW)
        assert guest.dmesg_warnings() == []


# The kernel's TLS

def tls_stat(guest: Guest) -> dict[str, int]:
    """The kernel's counters of offloaded TLS; none at all without the module."""
    lines = guest.run("cat /proc/net/tls_stat", check=False).stdout.splitlines()
    return {name: int(count) for name, count in map(str.split, lines)}


def without_kernel_tls(guest: Guest, service: str) -> None:
    """Makes the ``tls`` module unavailable, for good, before the daemon starts."""
    guest.put(TLS_OFF, "blacklist tls\ninstall tls /bin/false\n")
    guest.sh(f"systemctl stop {service}; ! lsmod | grep -q '^tls ' || rmmod tls; ! modprobe tls 2>/dev/null; "
             f"systemctl start {service}", SLOW)
    assert not tls_stat(guest)


# What passes on the cable

@contextmanager
def captured(guest: Guest) -> Iterator[None]:
    """Captures all that passes on *guest*'s cable meanwhile; then see ``in_clear``."""
    job = guest.start_job(f"exec tcpdump -i eth0 -B 16384 -s 0 -U -w {CAPTURE} 2>&1")
    job.wait_for("listening on", SLOW)
    yield
    job.kill()
    said = job.wait(SLOW).stdout
    assert "\n0 packets dropped by kernel" in said, said


def in_clear(guest: Guest, busid: str, least: int) -> list[str]:
    """Which of busid, sysfs path, serial and content the capture shows. It must be *least* bytes long."""
    needles = {"busid": busid.encode().ljust(32, b"\0").hex(), "path": f"/{busid}\0".encode().hex(),
               "content": MARKER.hex(), "serial": SERIAL.encode().hex(),
               "serial, as USB has it": SERIAL.encode("utf-16-le").hex()}
    size, found = there(guest, _search, CAPTURE, needles)
    assert size >= least, f"the capture has {size} bytes only"
    return list(found)


def _search(path: str, needles: dict[str, str]) -> tuple[int, list[str]]:
    from pathlib import Path

    data = Path(path).read_bytes()
    return len(data), [name for name, needle in needles.items() if bytes.fromhex(needle) in data]


# Firewalls

def only_port(node: Guest, host: Guest, port: int) -> None:
    """From now on nothing leaves the node but to this port of the host, where nothing else comes in."""
    _filter(node, "output", f"ip6 daddr {host.identity.ipv6} tcp dport {port} accept; "
                            f"ip daddr {host.identity.ipv4} tcp dport {port} accept")
    _filter(host, "input", f"tcp dport {port} accept")


def _filter(guest: Guest, hook: str, rules: str) -> None:
    guest.run(["nft", "-f", "-"], stdin=f"""
table inet lab {{
    counter dropped {{
    }}
    chain {hook} {{
        type filter hook {hook} priority 0; policy drop;
        {"oif" if hook == "output" else "iif"} lo accept
        ct state established,related accept
        meta l4proto icmpv6 accept
        {rules}
        counter name dropped
    }}
}}
""".encode())


def dropped(guest: Guest) -> int:
    """How many packets its firewall has dropped."""
    said = guest.run(["nft", "-j", "list", "counter", "inet", "lab", "dropped"]).json
    return int(said["nftables"][-1]["counter"]["packets"])


# Python there

def there(guest: Guest, function: Callable[..., Any], *arguments: Any, timeout: float = SLOW) -> Any:
    """Runs *function*, which imports all that it uses, in the guest's Python, and returns its result.

    Arguments and result go as JSON.
    """
    command = _call(guest, function, "json.load(sys.stdin)")
    return guest.run(command, timeout, json.dumps(arguments).encode()).json


def started(guest: Guest, function: Callable[..., Any], *arguments: Any) -> Job:
    """The same in the background; what it prints can be waited for."""
    return guest.start_job(_call(guest, function, f"json.loads({json.dumps(arguments)!r})"))


def _call(guest: Guest, function: Callable[..., Any], arguments: str) -> list[str]:
    body = textwrap.dedent(inspect.getsource(function))
    path = f"/root/{function.__name__}.py"
    guest.put(path, f"from __future__ import annotations\n{body}\nimport json, sys\n"
                    f"print(json.dumps({function.__name__}(*{arguments})))\n")
    return ["python3", path]
