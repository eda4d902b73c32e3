"""The line that is pasted: whole it says what it said, and any slip is told from a wrong code."""

from __future__ import annotations

import base64
import string
import struct
import zlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.identity.samples import CODE, SECRET
from usbip_agent.errors import UsageFault
from usbip_agent.identity.join_code import LONGEST, PREFIX, JoinCode, encode, parse

NAME = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", fullmatch=True)
WEB = JoinCode("", 0, CODE.fingerprint, SECRET, "pi", "lab", "wss://lab.example.net:8443/usbip?x=1")
CODES = st.builds(
    JoinCode, st.sampled_from(["lab", "lab.example.net", "192.0.2.7", "2001:db8::7", "fe80::1%eth0"]),
    st.integers(1, 65535), st.binary(min_size=32, max_size=32).map(lambda digest: f"sha256:{digest.hex()}"),
    st.binary(min_size=20, max_size=20), NAME, NAME)


@given(CODES)
def test_it_says_what_it_said(code: JoinCode) -> None:
    text = encode(code)
    assert parse(text) == code and text.isascii() and text.startswith(PREFIX)
    assert set(text) <= set(string.ascii_letters + string.digits + "-_"), "no shell minds any of these"


def test_over_the_web() -> None:
    assert parse(encode(WEB)) == WEB and WEB.where == WEB.url


def test_it_fits_a_line_or_two() -> None:
    assert len(encode(CODE)) < 160


def test_where_it_leads() -> None:
    assert CODE.where == "lab.example.net:3240"
    assert replace(CODE, address="2001:db8::7").where == "[2001:db8::7]:3240"


def test_blanks_and_line_breaks_of_a_terminal_do_not_matter() -> None:
    text = encode(CODE)
    assert parse(f"  {text[:40]}\r\n   {text[40:]}\t") == CODE


def test_the_secret_is_in_no_log() -> None:
    assert repr(SECRET) not in repr(CODE) and SECRET.hex() not in repr(CODE)


@given(st.data())
def test_every_slip_is_one(data: st.DataObject) -> None:
    text = encode(CODE)
    position = data.draw(st.integers(len(PREFIX), len(text) - 1))
    other = data.draw(st.sampled_from(string.ascii_letters + string.digits + "-_+/=!ü"))
    if other == text[position]:
        return
    with pytest.raises(UsageFault, match="damaged"):
        parse(text[:position] + other + text[position + 1:])


@given(st.integers(len(PREFIX), len(encode(CODE)) - 1))
def test_what_is_missing_is_missed(end: int) -> None:
    with pytest.raises(UsageFault, match="damaged"):
        parse(encode(CODE)[:end])


@given(st.text(max_size=300))
def test_any_text_is_a_code_or_one_line_of_complaint(text: str) -> None:
    for each in (text, PREFIX + text):
        with pytest.raises(UsageFault) as caught:
            parse(each)
        assert caught.value.hint and "\n" not in str(caught.value)


@given(st.binary(max_size=200))
def test_any_bytes_under_a_right_checksum_are_no_crash(body: bytes) -> None:
    with pytest.raises(UsageFault):
        parse(sealed(body))


def sealed(body: bytes) -> str:
    data = body + struct.pack("!I", zlib.crc32(body))
    return PREFIX + base64.urlsafe_b64encode(data).decode().rstrip("=")


def body_of(where: bytes = b"lab", node: bytes = b"pi", host: bytes = b"lab", flags: int = 0,
            port: int = 3240) -> bytes:
    body = struct.pack("!BH20s32s", flags, port, SECRET, bytes(32))
    return body + b"".join(struct.pack("!H", len(text)) + text for text in (where, node, host))


def test_the_format_is_as_it_is_written_down() -> None:
    assert parse(sealed(body_of())) == JoinCode("lab", 3240, "sha256:" + 64 * "0", SECRET, "pi", "lab")


@pytest.mark.parametrize("body", [
    body_of(node=b"../x"), body_of(node=b""), body_of(host=b".x"), body_of(host=b"a\nb: c"),
    body_of(where=b""), body_of(where=b"a b"), body_of(where=b"\xff"), body_of(port=0), body_of(flags=2),
    body_of(flags=1), body_of(flags=1, where=b"wss://lab/x"), body_of(flags=1, where=b"https://lab/", port=0),
    body_of(flags=1, where=b"wss://user:pw@lab/", port=0), body_of() + b"x", body_of()[:-1]])
def test_what_is_made_wrong_is_no_typing_error(body: bytes) -> None:
    with pytest.raises(UsageFault, match="makes no sense"):
        parse(sealed(body))


@pytest.mark.parametrize(("text", "why"), [
    ("", "no join code"), ("usbip2-AAAA", "version 2"), ("usbip-AAAA", "no join code"),
    ("1-1.4", "no join code"),
    ("usbip" + "9" * 500 + "-", "no join code"), ("x" * (LONGEST + 1), "too long"),
    (encode(CODE).upper(), "no join code"), (PREFIX, "damaged"), (encode(CODE) * 2, "damaged")])
def test_what_is_no_code(text: str, why: str) -> None:
    with pytest.raises(UsageFault, match=why):
        parse(text)
