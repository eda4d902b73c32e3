"""Requests to proxies and heads of answers: pure, and every garbage a typed fault."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usbip_agent.errors import Fault, ProtocolFault, RefusedFault, UnreachableFault
from usbip_agent.policy.proxy import Proxy
from usbip_agent.transport.http_head import MAXIMUM_HEAD, ResponseHead, end_of_head, parse_head
from usbip_agent.transport.http_proxy import connect_request, refuse_unless_connected

ANSWER = (b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Negotiate\r\n"
          b"proxy-authenticate: NTLM\r\nX-Odd:\t a\xff\x1f"[:-1] + b"b \r\n\r\n")
PROXY = Proxy("proxy.example", 3128)


@pytest.mark.parametrize("host, proxy, request_", [
    ("lab.example", PROXY, b"CONNECT lab.example:3240 HTTP/1.1\r\nHost: lab.example:3240\r\n\r\n"),
    ("2001:db8::1", PROXY, b"CONNECT [2001:db8::1]:3240 HTTP/1.1\r\nHost: [2001:db8::1]:3240\r\n\r\n"),
    ("fe80::1%eth0", PROXY, b"CONNECT [fe80::1]:3240 HTTP/1.1\r\nHost: [fe80::1]:3240\r\n\r\n"),
    ("a", Proxy("p", 1, "me", "p@:ü"), b"CONNECT a:3240 HTTP/1.1\r\nHost: a:3240\r\n"
     b"Proxy-Authorization: Basic bWU6cEA6w7w=\r\n\r\n"),
])
def test_the_request(host: str, proxy: Proxy, request_: bytes) -> None:
    assert connect_request(proxy, host, 3240) == request_


def test_no_host_name_becomes_a_header_of_its_own() -> None:
    with pytest.raises(UnreachableFault):
        connect_request(PROXY, "a" * 64 + ".example", 1)


def test_a_head() -> None:
    assert end_of_head(ANSWER + b"after") == len(ANSWER)
    head = parse_head(ANSWER)
    assert head.status == 407
    assert head.all("proxy-authenticate") == ["Negotiate", "NTLM"]
    assert head.all("x-odd") == ["a�b"]
    assert not head.is_interim


@pytest.mark.parametrize("count", range(len(ANSWER)))
def test_a_truncated_head_is_waited_for(count: int) -> None:
    assert end_of_head(ANSWER[:count]) is None


@pytest.mark.parametrize("data", [
    b"S", b"HTTP/2 200 OK", b"HTTX", b"\0", b"SSH-2.0-OpenSSH_9.2\r\n", b"\x16\x03\x01", b"\r\n\r\n",
])
def test_what_can_become_no_head_is_refused_at_its_first_bytes(data: bytes) -> None:
    with pytest.raises(ProtocolFault, match="no HTTP"):
        end_of_head(data)


def test_a_head_without_end_is_refused() -> None:
    with pytest.raises(ProtocolFault, match="more than 16 KiB"):
        end_of_head(b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * MAXIMUM_HEAD)


@pytest.mark.parametrize("head", [
    b"HTTP/1.1 200OK\r\n\r\n", b"HTTP/1.1 20 OK\r\n\r\n", b"HTTP/1.1 \xb2\xb2\xb2 OK\r\n\r\n",
    b"HTTP/1.1  200 OK\r\n\r\n", b"HTTP/1.2 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nfolded: a\r\n b\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", b"HTTP/1.1 200 OK\r\na b: c\r\n\r\n",
    b"HTTP/1.1 200 OK\r\na: \x1b[1m\r\n\r\n", b"HTTP/1.1 200 \0\r\n\r\n",
])
def test_heads_that_are_none(head: bytes) -> None:
    assert end_of_head(head) == len(head)
    with pytest.raises(ProtocolFault, match="no HTTP"):
        parse_head(head)


@given(st.binary(max_size=200) | st.binary(max_size=200).map(b"HTTP/1.1 200 OK\r\n".__add__)
       | st.lists(st.sampled_from([b"HTTP/1.1 ", b"200", b" ", b"\r", b"\n", b":", b"a", b"\xff"]))
       .map(b"".join))
def test_any_bytes_are_a_head_or_wait_for_more_or_are_a_fault(data: bytes) -> None:
    try:
        end = end_of_head(data)
        head = parse_head(data[:end]) if end is not None else None
    except ProtocolFault:
        return
    if head is None:
        assert end is None and len(data) < MAXIMUM_HEAD
    else:
        assert 100 <= head.status <= 999
        assert all(name.isascii() and value.isprintable() for name, value in head.headers)


@pytest.mark.parametrize("status, proxy, fault, words", [
    (407, PROXY, RefusedFault, "wants credentials (407 Proxy Authentication Required)"),
    (407, Proxy("proxy.example", 3128, "me", "pw"), RefusedFault, "wants other credentials (407"),
    (401, Proxy("proxy.example", 3128, "me", "pw"), RefusedFault, "wants other credentials (401"),
    (403, PROXY, RefusedFault, "forbids connections to lab port 3240 (403 Forbidden)"),
    (500, PROXY, UnreachableFault, "cannot reach lab port 3240 (500"),
    (502, PROXY, UnreachableFault, "cannot reach lab port 3240 (502 Bad Gateway)"),
    (503, PROXY, UnreachableFault, "cannot reach lab port 3240 (503"),
    (504, PROXY, UnreachableFault, "cannot reach lab port 3240 (504"),
    (405, PROXY, RefusedFault, "takes no CONNECT (405 Method Not Allowed)"),
    (302, PROXY, RefusedFault, "says 302 Found"),
    (101, PROXY, RefusedFault, "says 101"),
    (999, PROXY, RefusedFault, "says 999"),
])
def test_statuses_are_told_apart(status: int, proxy: Proxy, fault: type[Fault], words: str) -> None:
    with pytest.raises(fault) as caught:
        refuse_unless_connected(ResponseHead(status), proxy, "lab", 3240)
    assert str(caught.value).startswith(f"the proxy proxy.example port 3128 {words}")
    assert "pw" not in str(caught.value)


def test_a_scheme_that_we_do_not_know_is_named() -> None:
    with pytest.raises(RefusedFault, match=r"by Negotiate or NTLM only \(Basic is what we know\)"):
        refuse_unless_connected(parse_head(ANSWER), PROXY, "lab", 3240)


@pytest.mark.parametrize("status", [200, 201, 206])
def test_yes_is_yes(status: int) -> None:
    refuse_unless_connected(ResponseHead(status), PROXY, "lab", 3240)
