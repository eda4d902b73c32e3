"""Join codes: once, within an hour, whatever the clocks do and whoever restarts."""

from __future__ import annotations

import ipaddress
import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.identity.samples import NOON, later
from usbip_agent.errors import Fault
from usbip_agent.identity import codes as codes_module
from usbip_agent.identity.codes import REMEMBERED_FOR, VALID_FOR, CodeFault, JoinCodes, Moment
from usbip_agent.identity.limiter import OVERALL, PER_SOURCE, WINDOW, Limiter, source_of


@pytest.fixture
def codes(tmp_path: Path) -> JoinCodes:
    return JoinCodes(tmp_path)


def refused(codes: JoinCodes, secret: bytes, now: Moment) -> str:
    with pytest.raises(CodeFault) as caught:
        codes.redeem(secret, now)
    return caught.value.what


def test_once(codes: JoinCodes, tmp_path: Path) -> None:
    secret = codes.issue("pi", NOON)
    assert codes.verify(secret, later(1)) == codes.verify(secret, later(2)) == "pi"
    assert codes.redeem(secret, later(3)) == "pi"
    for each in (codes, JoinCodes(tmp_path)):
        assert refused(each, secret, later(4)) == "the join code for pi is used"


def test_it_survives_a_restart_and_the_file_does_not_give_it_away(codes: JoinCodes, tmp_path: Path) -> None:
    secret = codes.issue("pi", NOON)
    [file] = tmp_path.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert secret.hex() not in file.read_text() and len(secret) >= 16
    assert JoinCodes(tmp_path).redeem(secret, later(5)) == "pi"


def test_a_wrong_one(codes: JoinCodes) -> None:
    secret = codes.issue("pi", NOON)
    for wrong in (b"", secret[:-1], secret + b"\0", bytes(20)):
        assert refused(codes, wrong, later(1)) == "a join code that was never issued here"
    assert codes.redeem(secret, later(1)) == "pi"


def test_an_hour(codes: JoinCodes) -> None:
    secret = codes.issue("pi", NOON)
    assert codes.verify(secret, later(VALID_FOR)) == "pi"
    assert refused(codes, secret, later(VALID_FOR + 1)) == "the join code for pi is expired"


def test_no_clock_revives_it(codes: JoinCodes, tmp_path: Path) -> None:
    secret = codes.issue("pi", NOON)
    set_back = Moment(NOON.uptime + VALID_FOR + 1, NOON.wall - 100_000)
    set_forward = Moment(NOON.uptime + 1, NOON.wall + VALID_FOR + 1)
    rebooted = Moment(NOON.uptime - 1, NOON.wall + 10)
    rebooted_and_set_back = Moment(10.0, NOON.wall - 100_000)
    for each in (codes, JoinCodes(tmp_path)):
        assert "expired" in refused(each, secret, set_back)
        assert "expired" in refused(each, secret, set_forward)
        assert "from before a reboot" in refused(each, secret, rebooted)
        assert "from before a reboot" in refused(each, secret, rebooted_and_set_back)


@given(st.floats(0, 1e6), st.floats(0, 1e10))
def test_valid_only_where_both_clocks_say_so(uptime: float, wall: float) -> None:
    code = codes_module._Code("pi", "", NOON.uptime, NOON.wall)
    if code.ended(Moment(uptime, wall)) == "":
        assert 0 <= uptime - NOON.uptime <= VALID_FOR and wall - NOON.wall <= VALID_FOR


def test_a_newer_one_makes_the_older_void(codes: JoinCodes) -> None:
    first, other, second = codes.issue("pi", NOON), codes.issue("attic", NOON), codes.issue("pi", later(1))
    assert refused(codes, first, later(2)) == "the join code for pi is replaced by a newer one"
    assert codes.redeem(second, later(2)) == "pi" and codes.redeem(other, later(2)) == "attic"


def test_it_can_be_cancelled(codes: JoinCodes) -> None:
    secret, other = codes.issue("pi", NOON), codes.issue("attic", NOON)
    assert codes.cancel("pi", later(1)) and not codes.cancel("pi", later(1))
    assert refused(codes, secret, later(2)) == "the join code for pi is revoked"
    assert codes.verify(other, later(2)) == "attic"


def test_used_means_used_on_the_disk_or_not_at_all(
        codes: JoinCodes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    secret = codes.issue("pi", NOON)

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Fault, match="No space left"):
        codes.redeem(secret, later(1))
    with pytest.raises(Fault, match="No space left"):
        codes.issue("attic", later(1))
    monkeypatch.undo()
    assert JoinCodes(tmp_path).verify(secret, later(2)) == codes.redeem(secret, later(2)) == "pi"


def test_memory_is_bounded(codes: JoinCodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codes_module, "write_file", lambda path, text: None)
    monkeypatch.setattr(codes_module, "MAXIMUM_PENDING", 16)
    monkeypatch.setattr(codes_module, "MAXIMUM_REMEMBERED", 8)
    for number in range(16):
        codes.issue(f"n{number}", NOON)
    with pytest.raises(Fault, match="wait to be used"):
        codes.issue("one-more", NOON)
    codes.issue("n7", NOON)
    for number in range(50):
        codes.issue("n8", later(number / 1000))
    assert len(codes._codes) <= 16 + 8 + 1
    codes.issue("pi", later(REMEMBERED_FOR + 10))
    assert len(codes._codes) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [
    b"{", b"[]", b"\xff", b"[" * 9999, b'{"version": 9, "codes": []}', b'{"version": 1, "codes": [{}]}',
    b'{"version": 1, "codes": 7}', b"x" * 2_000_000,
    json.dumps({"version": 1, "codes": [
        {"node": "pi", "digest": "zz", "uptime": 1, "wall": 1, "over": ""}]}).encode(),
    json.dumps({"version": 1, "codes": [
        {"node": "pi", "digest": "00" * 32, "uptime": "1", "wall": 1, "over": ""}]}).encode()])
def test_a_damaged_file_ends_the_codes_in_it(
        tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    secret = JoinCodes(tmp_path).issue("pi", NOON)
    (tmp_path / "join-codes.json").write_bytes(content)
    codes = JoinCodes(tmp_path)
    assert "void" in caplog.text and "never issued" in refused(codes, secret, later(1))
    assert codes.redeem(codes.issue("pi", NOON), later(1)) == "pi"


def test_the_clocks_are_there() -> None:
    first, second = Moment.now(), Moment.now()
    assert 0 < first.uptime <= second.uptime and first.wall > 1_500_000_000


def test_one_source_has_to_wait_and_others_do_not() -> None:
    limiter = Limiter()
    for number in range(PER_SOURCE):
        assert limiter.allows("192.0.2.1", number)
        limiter.failed("192.0.2.1", number)
    assert not limiter.allows("192.0.2.1", 10.0) and limiter.allows("192.0.2.2", 10.0)
    assert limiter.allows("192.0.2.1", WINDOW)


def test_many_sources_have_to_wait_together() -> None:
    limiter = Limiter()
    for number in range(10 * OVERALL):
        limiter.failed(str(number), 0.0)
    assert not limiter.allows("fresh", 1.0) and limiter.allows("fresh", WINDOW)
    assert len(limiter._failures) <= 2 * OVERALL


@pytest.mark.parametrize(("address", "source"), [
    ("192.0.2.7", "192.0.2.7"), ("::ffff:192.0.2.7", "192.0.2.7"),
    ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"), ("fe80::1", "fe80::/64")])
def test_what_counts_as_one_source(address: str, source: str) -> None:
    assert source_of(ipaddress.ip_address(address)) == source
