"""Requests and replies as bytes: whatever comes, it is one or a ProtocolFault."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.identity.samples import SECRET, certificate
from usbip_agent.errors import ProtocolFault
from usbip_agent.identity.enrolment import (
    LARGEST, MAGIC, decode_content, decode_header, decode_request, encode_message, encode_request)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10)


def test_a_request_as_it_is_written_down() -> None:
    data = encode_message({"ok": True})
    assert data == b"UJ\x01\x00" + struct.pack("!I", 11) + b'{"ok":true}'


@given(st.dictionaries(st.text(max_size=10), JSON, max_size=5))
def test_there_and_back(content: dict[str, Any]) -> None:
    data = encode_message(content)
    assert decode_header(data[:8]) == len(data) - 8
    assert decode_content(data[8:]) == content


@given(st.from_regex(r"[a-z]{1,64}", fullmatch=True), st.binary(max_size=64))
def test_a_request_there_and_back(node: str, secret: bytes) -> None:
    data = encode_request(node, secret, certificate("pi"))
    assert decode_request(decode_content(data[8:])) == (node, secret, certificate("pi"))


@given(st.binary(min_size=8, max_size=8))
def test_any_header(header: bytes) -> None:
    try:
        length = decode_header(header)
    except ProtocolFault:
        return
    assert header[:4] == MAGIC and 0 < length <= LARGEST


@pytest.mark.parametrize("header", [
    MAGIC + struct.pack("!I", 0), MAGIC + struct.pack("!I", LARGEST + 1), MAGIC + b"\xff" * 4,
    b"UJ\x02\x00\0\0\0\x01", struct.pack("!HHI", 0x0111, 0x8006, 0)])
def test_headers_that_are_none(header: bytes) -> None:
    with pytest.raises(ProtocolFault):
        decode_header(header)


@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    try:
        assert isinstance(decode_content(data), dict)
    except ProtocolFault:
        pass


@pytest.mark.parametrize("data", [
    b"", b"[]", b"7", b"{", b"[" * LARGEST, b'{"a":' * 3000, b"9" * LARGEST, b"\xff", b'{"a":1}{}'])
def test_content_that_is_none(data: bytes) -> None:
    with pytest.raises(ProtocolFault):
        decode_content(data)


@given(st.dictionaries(st.sampled_from(["node", "secret", "certificate"]), JSON))
def test_any_request(content: dict[str, Any]) -> None:
    try:
        decode_request(content)
    except ProtocolFault:
        pass


@pytest.mark.parametrize("secret", ["ü", "A", "\ud800"])
def test_a_secret_that_is_none(secret: str) -> None:
    with pytest.raises(ProtocolFault):
        decode_request({"node": "pi", "secret": secret, "certificate": ""})


def test_what_we_send_is_bounded_as_well() -> None:
    with pytest.raises(ValueError):
        encode_request("pi", SECRET, "x" * LARGEST)
