"""The WebSocket protocol without a socket: every split, truncation and garbage of its bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usbip_agent.errors import Fault, ProtocolFault, RefusedFault, UnreachableFault
from usbip_agent.transport.http_head import ResponseHead
from usbip_agent.transport.websocket_client import refuse_unless_upgraded
from usbip_agent.transport.websocket_frames import ClientHandshake, Frames, ServerHandshake

URL = "wss://lab.example:8443/usbip?x=y"


def both() -> tuple[Frames, Frames]:
    """An open WebSocket's ends: client, server."""
    client, server = ClientHandshake(URL), ServerHandshake()
    frames = server.feed(client.request)
    assert frames is not None
    return client.take(server.answer), frames


def test_the_request() -> None:
    lines = ClientHandshake(URL).request.split(b"\r\n")
    assert lines[0] == b"GET /usbip?x=y HTTP/1.1"
    assert b"Host: lab.example:8443" in lines
    assert b"Sec-WebSocket-Protocol: usbip" in lines
    assert not [line for line in lines if b"Extensions" in line or b"Authorization" in line]


def test_the_address_of_an_ipv6_host_has_its_brackets() -> None:
    assert b"\r\nHost: [2001:db8::1]\r\n" in ClientHandshake("wss://[2001:db8::1]/").request


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=5), st.integers(1, 40), st.booleans())
def test_however_the_bytes_are_cut_the_payload_is_the_same(
        payloads: list[bytes], step: int, from_client: bool) -> None:
    client, server = both()
    sender, receiver = (client, server) if from_client else (server, client)
    stream = b"".join(sender.binary(payload) for payload in payloads)
    received = [bytes(payload) for start in range(0, len(stream), step)
                for payload in receiver.feed(stream[start:start + step])]
    assert received == payloads
    assert not receiver.replies and not receiver.ended


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_payloads_or_a_fault(data: bytes, to_client: bool) -> None:
    frames = both()[0 if to_client else 1]
    try:
        payloads = frames.feed(data)
    except (ProtocolFault, RefusedFault) as fault:
        assert str(fault).isprintable()
    else:
        assert sum(map(len, payloads)) <= len(data)


@given(st.binary(max_size=300) | st.binary(max_size=100).map(b"GET / HTTP/1.1\r\n".__add__)
       | st.lists(st.sampled_from([b"GET / HTTP/1.1\r\n", b"Upgrade: websocket\r\n",
                                   b"Connection: upgrade\r\n", b"Sec-WebSocket-Key: ", b"=\r\n",
                                   b"Sec-WebSocket-Version: 13\r\n", b"Sec-WebSocket-Protocol: usbip\r\n",
                                   b"\xff", b"Connection: ,,\r\n", b"\r\n"]))
       .map(b"".join))
def test_any_bytes_are_a_request_or_wait_for_more_or_are_a_fault(data: bytes) -> None:
    handshake = ServerHandshake()
    try:
        frames = handshake.feed(data)
    except ProtocolFault as fault:
        assert str(fault).isprintable()
        assert not handshake.answer.startswith(b"HTTP/1.1 101")
    else:
        assert frames is None or handshake.answer.startswith(b"HTTP/1.1 101")


@pytest.mark.parametrize("answer", [
    b"HTTP/1.1 101 X\r\n\r\n", b"HTTP/1.1 101 X\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
    b"HTTP/1.0 101 X\r\nUpgrade: websocket\r\n\r\n", b"HTTP/1.1 101 X\r\nTransfer-Encoding: chunked\r\n\r\n",
])
def test_an_answer_that_makes_no_websocket(answer: bytes) -> None:
    with pytest.raises(ProtocolFault):
        ClientHandshake(URL).take(answer)


@pytest.mark.parametrize("change", [
    lambda answer: answer.replace(b"Sec-WebSocket-Accept: ", b"Sec-WebSocket-Accept: A"),
    lambda answer: answer.replace(b"Sec-WebSocket-Protocol: usbip\r\n", b""),
    lambda answer: answer.replace(b"Sec-WebSocket-Protocol: usbip", b"Sec-WebSocket-Protocol: chat"),
    lambda answer: answer.replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"),
])
def test_an_answer_to_something_else(change: object) -> None:
    assert callable(change)
    client, server = ClientHandshake(URL), ServerHandshake()
    server.feed(client.request)
    with pytest.raises(ProtocolFault):
        client.take(change(server.answer))


@pytest.mark.parametrize("status, fault", [
    (400, RefusedFault), (401, RefusedFault), (403, RefusedFault), (404, RefusedFault), (426, RefusedFault),
    (301, RefusedFault), (500, RefusedFault), (200, RefusedFault), (999, RefusedFault),
    (502, UnreachableFault), (503, UnreachableFault), (504, UnreachableFault),
])
def test_statuses_are_told_apart(status: int, fault: type[Fault]) -> None:
    with pytest.raises(fault, match=f"^lab.example .*{status}"):
        refuse_unless_upgraded(ResponseHead(status), URL)
    refuse_unless_upgraded(ResponseHead(101), URL)
