"""SRV records asked of a name server: real resolv.conf, real packets, in namespaces of the test's own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

UNSHARE = ["unshare", "--user", "--map-root-user", "--net", "--mount"]

SERVER = r"""
import asyncio, socket, socketserver, struct, subprocess, sys, threading
import dns.flags, dns.message, dns.rcode, dns.rrset
from usbip_agent.errors import UnreachableFault
from usbip_agent.policy.hosts import Host
from usbip_agent.transport import services
from usbip_agent.transport.names import endpoints_of

WEIRD = [f"{number} 0 3240 a-rather-long-name-of-a-target-{number}.example.net." for number in range(40)]
RECORDS = {"_two._tcp.example.net.": ["20 0 3241 127.0.0.2.", "10 0 3240 127.0.0.1."],
           "_none._tcp.example.net.": ["0 0 0 ."], "_many._tcp.example.net.": WEIRD,
           "_alias._tcp.example.net.": "_two._tcp.example.net."}

def answer(packet, limit):
    question = dns.message.from_wire(packet)
    name = str(question.question[0].name)
    reply = dns.message.make_response(question)
    if isinstance(RECORDS.get(name), str):
        reply.answer.append(dns.rrset.from_text(name, 30, "IN", "CNAME", RECORDS[name]))
        name = RECORDS[name]
    if name == "_broken._tcp.example.net.":
        reply.set_rcode(dns.rcode.SERVFAIL)
    elif name in RECORDS:
        reply.answer.append(dns.rrset.from_text(name, 30, "IN", "SRV", *RECORDS[name]))
    elif name != "_empty._tcp.example.net.":
        reply.set_rcode(dns.rcode.NXDOMAIN)
    wire = reply.to_wire()
    if len(wire) <= limit:
        return wire
    reply = dns.message.make_response(question)
    reply.flags |= dns.flags.TC
    return reply.to_wire()

class Udp(socketserver.DatagramRequestHandler):
    def handle(self):
        self.wfile.write(answer(self.rfile.read(), 512))

class Tcp(socketserver.StreamRequestHandler):
    def handle(self):
        (length,) = struct.unpack("!H", self.rfile.read(2))
        wire = answer(self.rfile.read(length), 65535)
        self.wfile.write(struct.pack("!H", len(wire)) + wire)

def listen():
    place = "127.0.0.1", 53
    for server in (socketserver.UDPServer(place, Udp), socketserver.TCPServer(place, Tcp)):
        threading.Thread(target=server.serve_forever, daemon=True).start()

async def main():
    for name in ("two", "alias", "many", "none", "empty", "broken", "nowhere"):
        service = f"_{name}._tcp.example.net"
        try:
            if name == "many":
                print(name, len(await services.service_records(service)))
                continue
            found = await endpoints_of(Host("a", "srv:" + service))
            print(name, *(f"{each.address}:{each.port}" for each in found))
        except UnreachableFault as fault:
            print(name, fault.what.partition(": ")[2])

subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
with open(sys.argv[1], "w") as file:
    file.write("nameserver 127.0.0.1\nsearch wrong.example\n")
subprocess.run(["mount", "--bind", sys.argv[1], "/etc/resolv.conf"], check=True)
listen()
asyncio.run(main())
"""


def _may_unshare() -> bool:
    try:
        return subprocess.run([*UNSHARE, "ip", "link"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not _may_unshare(), reason="needs unprivileged namespaces, and iproute2")
def test_what_a_name_server_says(tmp_path: Path) -> None:
    pytest.importorskip("dns.resolver")
    said = subprocess.run(
        [*UNSHARE, sys.executable, "-c", SERVER, str(tmp_path / "resolv.conf")],
        cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=120, check=False)
    assert said.stdout.splitlines() == [
        "two 127.0.0.1:3240 127.0.0.2:3241", "alias 127.0.0.1:3240 127.0.0.2:3241", "many 40",
        "none DNS says that nobody offers this service", "empty it has no SRV records",
        "broken no name server has an answer", "nowhere there is no such name"], said.stderr
