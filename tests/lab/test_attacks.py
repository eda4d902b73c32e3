"""Attacks by somebody at the very address of an enrolled node: none gets in, and the node goes on."""
from __future__ import annotations

import pytest
from usbip_agent import wire
from usbip_agent.device import Device, Kind, Speed

from . import encrypted, product
from .devices import Stick
from .encrypted import there
from .guest import Guest
from .pair import Pair
from .product import SLOW, USBIPA

MALLORY = "/root/mallory"       # an attacker's key and certificate, on the node
OLD_PROTOCOL = "TLSv1_1"
SLOW_ONES = 500
AFTER_AN_EXPORT = (
    (False, "00" * 48),                     # a PDU of no known kind
    (False, "00000003" + "00" * 44),        # the result of an URB that was never submitted
    (False, "ff" * 4096),
    (True, "ff" * 4096),                    # bytes that somebody on the way injects: no record of TLS
    (True, "1703030040" + "00" * 64),       # and one that nobody with the key has made
)


def request(operation: wire.Operation, busid: str) -> str:
    """A request as it goes over the wire, in hex."""
    device = Device(Kind.USB, busid, 2, 2, Speed.SUPER, "46f4", "0001")
    return wire.encode_request(wire.Request(operation, device)).hex()


def ask(address: str, asked: str, pem: str = "", version: str = "") -> str:
    """What a host answers to a request over TLS, in hex; or what went wrong."""
    import socket
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if pem:
        context.load_cert_chain(pem)
    if version:
        context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
        context.set_ciphers("ALL:@SECLEVEL=0")
    try:
        with socket.create_connection((address, 3240), 60) as below, context.wrap_socket(below) as tls:
            tls.sendall(bytes.fromhex(asked))
            return tls.recv(64).hex()
    except OSError as error:
        return f"{type(error).__name__}: {error}"


def is_hung_up(answer: str) -> bool:
    """No reply: the host has ended the connection, or the TLS in it."""
    return answer == "" or "Error: " in answer


def ask_plainly(address: str, asked: str) -> str:
    """The same without TLS."""
    import socket

    try:
        with socket.create_connection((address, 3240), 60) as plain:
            plain.sendall(bytes.fromhex(asked))
            return plain.recv(64).hex()
    except OSError as error:
        return f"{type(error).__name__}: {error}"


def export_and_then(address: str, pem: str, asked: str, after: str, below_tls: bool) -> str:
    """Exports a device that is none, and says *after* on the link; returns what the reply was."""
    import os
    import socket
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(pem)
    reply = b""
    with socket.create_connection((address, 3240), 60) as below, context.wrap_socket(below) as tls:
        tls.sendall(bytes.fromhex(asked))
        while len(reply) < 12 and (more := tls.recv(12 - len(reply))):
            reply += more
        try:
            if below_tls:
                os.write(tls.fileno(), bytes.fromhex(after))
            else:
                tls.sendall(bytes.fromhex(after))
            while tls.recv(65536):
                pass
        except OSError:
            pass
    return reply.hex()


def join_as(name: str, code: str, directory: str) -> str:
    """Enrols with a key of its own; what the host said against it."""
    import asyncio
    from pathlib import Path

    from usbip_agent.errors import Fault
    from usbip_agent.identity import enrolment, join_code, own
    from usbip_agent.policy.hosts import Host
    from usbip_agent.transport.dial import DIAL_TO_ENROL

    parsed = join_code.parse(code)
    Path(directory).mkdir(mode=0o700, exist_ok=True)
    pem = own.ensure_identity(Path(directory), name).pem

    async def enrol() -> None:
        host = Host("host", parsed.address, parsed.port, fingerprint=parsed.fingerprint)
        stream = await DIAL_TO_ENROL(host)
        try:
            await enrolment.request_enrolment(stream, parsed, pem)
        finally:
            await stream.close()

    try:
        asyncio.run(enrol())
    except Fault as fault:
        return fault.what
    return ""


def guess(code: str, count: int) -> list[str]:
    """Tries secrets at random; what the host said to each."""
    import asyncio
    import dataclasses
    import os

    from usbip_agent.errors import Fault
    from usbip_agent.identity import enrolment, join_code
    from usbip_agent.policy.hosts import Host
    from usbip_agent.transport.dial import DIAL_TO_ENROL

    parsed = join_code.parse(code)
    host = Host("host", parsed.address, parsed.port, fingerprint=parsed.fingerprint)

    async def one() -> str:
        stream = await DIAL_TO_ENROL(host)
        try:
            wrong = dataclasses.replace(parsed, secret=os.urandom(len(parsed.secret)))
            await enrolment.request_enrolment(stream, wrong, "no certificate")
        except Fault as fault:
            return fault.what
        finally:
            await stream.close()
        return "enrolled"

    async def all_of_them() -> list[str]:
        return [await one() for _ in range(count)]

    return asyncio.run(all_of_them())


def until_logged(host: Guest, pattern: str) -> None:
    """Waits until usbipa's journal says so."""
    host.until(f"journalctl -b --no-pager -u {USBIPA} | grep -qE '{pattern}'", SLOW)


def an_enrolled_node(pair: Pair, *rules: str) -> tuple[Stick, str]:
    """The node is enrolled, and has a stick on the host; returns it and which device it is there."""
    encrypted.listen(pair.host, rules=(encrypted.ACCEPT, *rules))
    encrypted.enrol(pair)
    stick = Stick(1 << 20, serial="FIRST")
    busid = encrypted.connected(pair, stick, "tls")
    pair.host.until(f"[ -b {stick.disk} ]", SLOW)
    return stick, enumerated(pair.host, busid)


def enumerated(host: Guest, busid: str) -> str:
    """Where and as the how-many-th device an import was enumerated: another one after any interruption."""
    local = product.imports(host)[busid]["local_bus_id"]
    return f"{local} {host.sh(f'cat /sys/bus/usb/devices/{local}/devnum')}"


def another_plug_works(pair: Pair, port: int = 2) -> None:
    """And its data arrives as it is."""
    stick = Stick(1 << 20, serial=f"PLUG{port}")
    busid = pair.node.plug(stick, port)
    product.until_state(pair.node, busid, "connected")
    assert pair.host.disk_hash(stick) == stick.sha256
    pair.node.unplug(stick)
    pair.host.until(f"! [ -e {stick.disk} ]", SLOW)


def check_untouched(pair: Pair, stick: Stick, before: str) -> None:
    """The first stick was never interrupted, is whole, and neither kernel has complained."""
    [imported] = product.imports(pair.host).values()
    assert enumerated(pair.host, imported["bus_id"]) == before
    assert pair.host.disk_hash(stick) == stick.sha256
    assert pair.node.dmesg_warnings() == pair.host.dmesg_warnings() == []


def test_strangers(pair: Pair) -> None:
    """No certificate, no TLS, old TLS, another node's name, an unknown key; forged and used join codes."""
    node, host = pair.node, pair.host
    stick, before = an_enrolled_node(pair)
    export = request(wire.Operation.EXPORT, "2-9")
    here = host.identity.ipv4
    assert b"this is no enrolment" in bytes.fromhex(there(node, ask, here, export))
    until_logged(host, "refused to enrol a node from .*this is no enrolment")
    assert is_hung_up(there(node, ask_plainly, here, export))
    until_logged(host, "a plain connection, but this listener takes tls only")
    assert is_hung_up(there(node, ask, here, export, "", OLD_PROTOCOL))
    until_logged(host, "speaks no TLS version that is safe")

    identity = "from usbip_agent.identity import making; from pathlib import Path; " \
               "Path('{0}').mkdir(); making.make_in(Path('{0}'), '{1}')"
    for directory, name in ((MALLORY, "mallory"), ("/root/impostor", encrypted.NODE)):
        node.run(["python3", "-c", identity.format(directory, name)], SLOW)
        complaints = f"journalctl -b -u {USBIPA} | grep -c 'its certificate is not accepted'"
        seen = host.sh(f"{complaints} || true")
        assert is_hung_up(there(node, ask, here, export, f"{directory}/identity.key"))
        host.until(f"[ $({complaints}) -gt {seen} ]", SLOW)

    code = encrypted.invite(host, "mallory", here)
    assert there(node, join_as, "mallory", code, MALLORY) == ""
    assert "the join code is not valid" in there(node, join_as, "mallory", code, "/root/replay")
    until_logged(host, "refused to enrol node mallory from .*used")
    answers = there(node, guess, encrypted.invite(host, "another", here), 30)
    assert "enrolled" not in answers
    assert sum("the join code is not valid" in answer for answer in answers) <= 5
    assert "too many failed attempts" in answers[-1]
    until_logged(host, "refused to enrol .*too many failed attempts")
    # Who was invited and comes from elsewhere enrols meanwhile.
    code = encrypted.invite(host, "guest", host.identity.ipv6)
    assert there(node, join_as, "guest", code, "/root/guest") == ""

    assert list(product.imports(host)) == [stick.busid]
    another_plug_works(pair)
    check_untouched(pair, stick, before)


@pytest.mark.parametrize("accepted", [False, True])
def test_another_enrolled_node(pair: Pair, accepted: bool) -> None:
    """It can neither end nor evict a device that is not its own; on its own link, it ends that one."""
    node, host = pair.node, pair.host
    rules = ["{name: mallory, node: mallory, accept: true}"] if accepted else []
    stick, before = an_enrolled_node(pair, *rules)
    here, pem = host.identity.ipv6, f"{MALLORY}/identity.key"
    assert there(node, join_as, "mallory", encrypted.invite(host, "mallory", here), MALLORY) == ""
    answer = there(node, ask, here, request(wire.Operation.UNEXPORT, stick.busid), pem)
    assert answer.startswith("01110007" "00000003"), answer
    until_logged(host, f"refused UNEXPORT of {stick.busid} .* of mallory .*not imported from there")
    export = request(wire.Operation.EXPORT, stick.busid)
    if not accepted:
        assert there(node, ask, here, export, pem).startswith("01110006" "00000001")
        until_logged(host, f"refused EXPORT of {stick.busid} .* of mallory ")
        check_untouched(pair, stick, before)
        return

    assert is_hung_up(there(node, ask, here, export + export, pem))
    until_logged(host, "mallory .*bytes between the request and its reply")
    for below_tls, after in AFTER_AN_EXPORT:
        reply = there(node, export_and_then, here, pem, export, after, below_tls, timeout=2 * SLOW)
        assert reply.startswith("01110006" "00000000"), reply
        # Its own import ends, and no other.
        host.until("[ $(busctl --auto-start=no tree --list org.usbip.Usbipa1 | grep -c import/) = 1 ]", SLOW)
        check_untouched(pair, stick, before)
    assert encrypted.tls_stat(host)["TlsDecryptError"] > 0
    until_logged(host, f"ended {stick.busid} .* of mallory")
    another_plug_works(pair)
    check_untouched(pair, stick, before)


def hold_handshakes(address: str, count: int) -> None:
    """Begins *count* handshakes, goes on with none, and keeps all of them."""
    import signal
    import socket

    held = [socket.create_connection((address, 3240), 60) for _ in range(count)]
    for each in held:
        each.sendall(b"\x16\x03\x01\x02")
    print("holding", flush=True)
    signal.pause()


def test_five_hundred_slow_handshakes(pair: Pair) -> None:
    node, host = pair.node, pair.host
    stick, before = an_enrolled_node(pair)
    daemon = product.pid(host, USBIPA)
    for address in (host.identity.ipv4, host.identity.ipv6):
        flood = encrypted.started(node, hold_handshakes, address, SLOW_ONES)
        flood.wait_for("holding", SLOW)
        another_plug_works(pair)
        until_logged(host, "too many strangers, the last of them from")
        until_logged(host, "no connection to speak of within 10 s")
        flood.kill()
    assert product.pid(host, USBIPA) == daemon
    check_untouched(pair, stick, before)


def test_a_configuration_of_a_gigabyte(pair: Pair) -> None:
    """One value of that size: refused at once, in little memory, by the commands and by a reload."""
    for guest, service in ((pair.node, product.AGENT), (pair.host, USBIPA)):
        file = product.FILES[service]
        guest.put("/root/large.yaml", b"version: 1\nnode: " + b"a" * (1 << 20))
        guest.sh("truncate -s 1G /root/large.yaml")
        before = product.pid(guest, service)
        check = f"timeout 60 prlimit --as={300 << 20} {service} check"
        assert "too large" in guest.run(f"{check} /root/large.yaml 2>&1; [ $? = 78 ]", SLOW).stdout
        guest.sh(f"cp --sparse=always /root/large.yaml {file}", SLOW)
        assert guest.run(["systemctl", "reload", service], SLOW, check=False).rc != 0
        assert "too large" in guest.run(f"{service} check 2>&1", SLOW, check=False).stdout
        name, path = product.BUS[service]
        said = guest.run(["busctl", "call", name, path, f"{name}.Manager", "Reload"], SLOW, check=False)
        assert said.rc and "too large" in said.stderr, said.stderr
        assert product.pid(guest, service) == before
        assert int(guest.sh(f"systemctl show -p MemoryPeak --value {service}")) < 100 << 20
