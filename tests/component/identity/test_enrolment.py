"""A node enrols at a host over real sockets; and everybody who should not get in does not."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.component.identity.loopback_host import LoopbackHost
from tests.unit.identity.samples import certificate, fingerprint, later, odd_certificate

from usbip_agent.errors import IdentityFault, ProtocolFault, RefusedFault, UnknownNodeFault, UsageFault
from usbip_agent.identity import enrolment, registrar as registrar_module
from usbip_agent.identity.enrolment import LARGEST, MAGIC, NOT_VALID
from usbip_agent.identity.join_code import encode, parse
from usbip_agent.identity.limiter import PER_SOURCE
from usbip_agent.identity.registrar import Registrar
from usbip_agent.transport.stream import Stream, receive_exactly, send_all


async def refusal(host: LoopbackHost, code: Any, pem: str) -> str:
    """What the node hears."""
    with pytest.raises(RefusedFault) as caught:
        await host.join(code, pem)
    return caught.value.what


async def reply_to(host: LoopbackHost, data: bytes) -> bytes:
    """All that comes back for *data*."""
    stream = await host.dial()
    try:
        await send_all(stream.socket, data)
        header = await receive_exactly(stream.socket, 8)
        return await receive_exactly(stream.socket, struct.unpack("!4sI", header)[1])
    finally:
        await stream.close()


async def test_a_node_enrols(host: LoopbackHost, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    code = parse(encode(host.invite()))
    before = host.registrar.known.generation
    await host.join(code, certificate("pi"))
    [node] = host.registrar.nodes()
    assert (node.name, node.fingerprint) == ("pi-kitchen", fingerprint("pi"))
    assert node.enrolled == int(host.now.wall * 1_000_000)
    assert host.registrar.known.generation != before
    assert "enrolled node pi-kitchen" in caplog.text
    host.restart()
    assert host.registrar.known.name_of(fingerprint("pi")) == "pi-kitchen"


async def test_a_code_survives_a_restart_of_the_host(host: LoopbackHost) -> None:
    code = host.invite()
    host.restart()
    await host.join(code, certificate("pi"))
    assert len(host.registrar.nodes()) == 1


@pytest.mark.parametrize("restart", [False, True])
async def test_a_code_that_was_used(
        host: LoopbackHost, restart: bool, caplog: pytest.LogCaptureFixture) -> None:
    code = host.invite()
    await host.join(code, certificate("pi"))
    if restart:
        host.restart()
    assert NOT_VALID in await refusal(host, code, certificate("thief"))
    assert "is used" in caplog.text
    assert [node.fingerprint for node in host.registrar.nodes()] == [fingerprint("pi")]


async def test_wrong_used_and_expired_sound_the_same_to_the_peer(
        host: LoopbackHost, caplog: pytest.LogCaptureFixture) -> None:
    expired, used = host.invite("a"), host.invite("b")
    await host.join(used, certificate("b"))
    wrong = replace(expired, secret=bytes(20))
    host.now = later(3601)
    foreign = replace(host.invite("d"), node="c")
    heard = {(await refusal(host, code, certificate("x"))).rpartition(": ")[2]
             for code in (wrong, used, expired, foreign)}
    assert heard == {NOT_VALID}
    for reason in ("never issued", "is used", "is expired", "is for d, not c"):
        assert reason in caplog.text
    assert [node.name for node in host.registrar.nodes()] == ["b"]


async def test_guessing_is_stopped_and_others_go_on(
        host: LoopbackHost, monkeypatch: pytest.MonkeyPatch) -> None:
    code = host.invite()
    for number in range(PER_SOURCE):
        assert NOT_VALID in await refusal(host, replace(code, secret=bytes([number] * 20)), certificate("x"))
    assert "too many" in await refusal(host, replace(code, secret=bytes(20)), certificate("x"))
    assert "too many" in await refusal(host, code, certificate("pi")), "the right one is not found out either"
    with monkeypatch.context() as patched:
        patched.setattr(registrar_module, "source_of", lambda address: "192.0.2.99")
        await host.join(code, certificate("pi"))
    host.now = later(61)
    await host.join(host.invite("attic"), certificate("attic"))
    assert len(host.registrar.nodes()) == 2


async def test_guessing_at_once_gains_nothing(host: LoopbackHost, caplog: pytest.LogCaptureFixture) -> None:
    code = host.invite()
    guesses = [replace(code, secret=os.urandom(20)) for _ in range(200)]
    heard = await asyncio.gather(*(host.join(guess, certificate("x")) for guess in guesses),
                                 return_exceptions=True)
    assert all(isinstance(each, RefusedFault) for each in heard)
    assert caplog.text.count("never issued") == PER_SOURCE, "the others were not even looked at"


async def test_one_code_used_by_many_at_once_lets_one_in(host: LoopbackHost) -> None:
    code = host.invite()
    heard = await asyncio.gather(*(host.join(code, certificate(f"n{number}")) for number in range(5)),
                                 return_exceptions=True)
    assert heard.count(None) == 1 and len(host.registrar.nodes()) == 1


async def test_a_node_that_enrols_again_replaces_its_certificate(host: LoopbackHost) -> None:
    await host.join(host.invite(), certificate("pi"))
    await host.join(host.invite(), certificate("pi again"))
    assert [node.fingerprint for node in host.registrar.nodes()] == [fingerprint("pi again")]


async def test_a_certificate_cannot_be_had_by_two_names(host: LoopbackHost) -> None:
    await host.join(host.invite("pi"), certificate("pi"))
    code = host.invite("attic")
    assert "enrolled already, as pi" in await refusal(host, code, certificate("pi"))
    await host.join(code, certificate("attic"))
    assert len(host.registrar.nodes()) == 2


@pytest.mark.parametrize("pem", [
    "", "nonsense", 2 * certificate("pi"), odd_certificate("ca"), odd_certificate("rsa1024"),
    odd_certificate("p224")], ids=["nothing", "nonsense", "two", "ca", "rsa1024", "p224"])
async def test_certificates_that_do_not_do(host: LoopbackHost, pem: str) -> None:
    code = host.invite()
    assert "the certificate does not do" in await refusal(host, code, pem)
    assert host.registrar.nodes() == () and not list((host.state / "nodes").glob("*"))
    await host.join(code, odd_certificate("ed25519"))
    assert len(host.registrar.nodes()) == 1


async def test_who_has_a_code_cannot_keep_the_host_busy(host: LoopbackHost) -> None:
    code = host.invite()
    for _ in range(PER_SOURCE):
        assert "does not do" in await refusal(host, code, "nonsense")
    assert "too many" in await refusal(host, code, certificate("pi"))


async def test_revoked(host: LoopbackHost) -> None:
    await host.join(host.invite(), certificate("pi"))
    pending = host.invite()
    host.registrar.revoke("pi-kitchen", host.now)
    assert host.registrar.known.name_of(fingerprint("pi")) is None
    assert NOT_VALID in await refusal(host, pending, certificate("pi"))
    with pytest.raises(UnknownNodeFault):
        host.registrar.revoke("pi-kitchen", host.now)
    host.invite("attic")
    host.registrar.revoke("attic", host.now)


async def test_revoked_while_it_enrols(host: LoopbackHost) -> None:
    async def revoke(pem: str) -> None:
        host.registrar.revoke("pi-kitchen", host.now)

    code = host.invite()
    host.registrar._check = revoke
    assert NOT_VALID in await refusal(host, code, certificate("pi"))
    assert host.registrar.nodes() == ()


async def test_a_full_disk_of_the_host_is_not_told_to_the_peer(
        host: LoopbackHost, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    code = host.invite()

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        heard = await refusal(host, code, certificate("pi"))
    assert "its journal says why" in heard and str(host.state) not in heard
    assert "No space left" in caplog.text and host.registrar.nodes() == ()
    await host.join(code, certificate("pi"))


def request(**changes: Any) -> bytes:
    return json.dumps({"node": "pi", "secret": "AAAA", "certificate": "", **changes}).encode()


@pytest.mark.parametrize("data", [
    MAGIC + struct.pack("!I", LARGEST + 1), MAGIC + struct.pack("!I", 2**32 - 1), MAGIC + bytes(4),
    b"GET / HTTP/1.1\r\n\r\n", bytes(8), MAGIC + struct.pack("!I", 2) + b"[]",
    MAGIC + struct.pack("!I", 9000) + b"[" * 9000, MAGIC + struct.pack("!I", 2) + b"{}",
    *(MAGIC + struct.pack("!I", len(body)) + body for body in (
        request(node=7), request(secret="ü"), request(secret=None), request(certificate=["x"]),
        request(node="\ud800"), request(node="\x1b[2J" * 99)))])
async def test_rubbish_is_refused_in_a_line(
        host: LoopbackHost, data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    answer = json.loads(await reply_to(host, data))
    assert answer["ok"] is False and answer["error"].isprintable()
    await host.settled()
    assert "refused to enrol" in caplog.text and "\x1b" not in caplog.text
    assert host.registrar.nodes() == ()


@pytest.mark.parametrize("data", [b"", MAGIC, MAGIC + struct.pack("!I", 100) + b"{"])
async def test_a_request_that_is_cut_off(
        host: LoopbackHost, data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    stream = await host.dial()
    await send_all(stream.socket, data)
    await stream.close()
    await asyncio.wait_for(until(lambda: "hung up" in caplog.text), 10)


async def until(happened: Callable[[], bool]) -> None:
    while not happened():
        await asyncio.sleep(0)


async def test_five_hundred_slow_ones_keep_nobody_out(
        host: LoopbackHost, caplog: pytest.LogCaptureFixture) -> None:
    slow = [await host.dial() for _ in range(500)]
    for stream in slow:
        await send_all(stream.socket, MAGIC)
    await host.join(host.invite(), certificate("pi"))
    assert len(host.registrar.nodes()) == 1
    for stream in slow:
        await stream.close()


async def test_slow_ones_are_ended(host: LoopbackHost, caplog: pytest.LogCaptureFixture) -> None:
    host.deadline = 0.05
    stream = await host.dial()
    await send_all(stream.socket, MAGIC)
    with pytest.raises(ProtocolFault, match="hung up"):
        await asyncio.wait_for(receive_exactly(stream.socket, 1), 10)
    await stream.close()
    assert "no whole enrolment within" in caplog.text


@pytest.mark.parametrize(("reply", "fault", "why"), [
    (b"", ProtocolFault, "hung up"), (b"\0" * 8, ProtocolFault, "no enrolment"),
    (MAGIC + struct.pack("!I", 2) + b"{}", RefusedFault, "does not say why"),
    (MAGIC + struct.pack("!I", 10) + b'{"ok":"no"}'[:10], ProtocolFault, "no JSON"),
    (enrolment.encode_message({"ok": 1}), RefusedFault, "does not say why"),
    (enrolment.encode_message({"ok": False, "error": "\x1b[2J" + "x" * 999}), RefusedFault, r"\\x1b\[2Jx+…"),
    (MAGIC + b"\xff\xff\xff\xff", ProtocolFault, "of 4294967295 bytes"),
], ids=["nothing", "zeros", "empty", "cut", "not true", "hostile", "huge"])
async def test_a_host_that_answers_rubbish(
        host: LoopbackHost, reply: bytes, fault: type[Exception], why: str) -> None:
    async def answer(stream: Stream) -> None:
        header = await receive_exactly(stream.socket, 8)
        await receive_exactly(stream.socket, enrolment.decode_header(header))
        await send_all(stream.socket, reply)

    host.answers = answer
    with pytest.raises(fault, match=why):
        await host.join(host.invite(), certificate("pi"))


async def test_a_host_without_a_certificate_issues_no_code(host: LoopbackHost) -> None:
    nameless = Registrar(host.state, host.state / "run", host="lab", fingerprint="")
    with pytest.raises(IdentityFault, match="no certificate"):
        nameless.enroll("pi", "lab", 3240, host.now)


@pytest.mark.parametrize(("node", "name", "port"), [
    ("../x", "lab", 1), ("pi", "lab lab", 1), ("pi", "", 1), ("pi", "lab", 0), ("pi", "lab", 70000),
    ("pi", "wss://user:pw@lab/", 1), ("pi", "https://lab/", 1), ("pi", "lab:3240", 3240)])
async def test_codes_that_cannot_be_issued(host: LoopbackHost, node: str, name: str, port: int) -> None:
    with pytest.raises(UsageFault):
        host.registrar.enroll(node, name, port, host.now)
    assert not (host.state / "run" / "join-codes.json").exists()
