"""The nodes a host knows: by name, by certificate, over restarts, and with damaged files."""

from __future__ import annotations

import json
import os
import ssl
import stat
from pathlib import Path

import pytest

from tests.unit.identity.samples import certificate, fingerprint
from usbip_agent.errors import Fault, RefusedFault
from usbip_agent.identity.nodes import SEEN_INTERVAL, KnownNode, KnownNodes

NOW = 1_800_000_000_000_000


@pytest.fixture
def known(tmp_path: Path) -> KnownNodes:
    nodes = KnownNodes(tmp_path)
    nodes.add("pi", certificate("pi"), NOW)
    nodes.add("attic", certificate("attic"), NOW + 1)
    return nodes


def reopened(tmp_path: Path) -> KnownNodes:
    return KnownNodes(tmp_path)


def test_what_is_enrolled_is_known_and_stays_so(known: KnownNodes, tmp_path: Path) -> None:
    for nodes in (known, reopened(tmp_path)):
        assert nodes.all() == (KnownNode("attic", fingerprint("attic"), NOW + 1),
                               KnownNode("pi", fingerprint("pi"), NOW))
        assert nodes.name_of(fingerprint("pi")) == "pi" and nodes.name_of(fingerprint("x")) is None
        assert "pi" in nodes and "cellar" not in nodes
        assert nodes.certificates() == certificate("attic") + certificate("pi")
    file = tmp_path / "nodes" / "pi.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_all_certificates_load_into_a_context(known: KnownNodes) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_verify_locations(cadata=known.certificates())
    assert context.cert_store_stats()["x509"] == 2


def test_revoked_is_forgotten(known: KnownNodes, tmp_path: Path) -> None:
    before = known.generation
    assert known.revoke("pi") and not known.revoke("pi") and not known.revoke("../../etc/passwd")
    assert known.generation != before
    for nodes in (known, reopened(tmp_path)):
        assert nodes.name_of(fingerprint("pi")) is None and "pi" not in nodes
        assert nodes.certificates() == certificate("attic")


def test_the_generation_tells_when_trust_changed(known: KnownNodes) -> None:
    seen = {known.generation}
    known.seen("pi", "192.0.2.1:1", NOW)
    assert known.generation in seen
    known.add("pi", certificate("pi again"), NOW)
    assert known.generation not in seen
    seen.add(known.generation)
    known.revoke("attic")
    assert known.generation not in seen


def test_a_new_certificate_takes_the_place_of_the_old(known: KnownNodes, tmp_path: Path) -> None:
    known.add("pi", certificate("pi again"), NOW + 5)
    for nodes in (known, reopened(tmp_path)):
        assert nodes.name_of(fingerprint("pi")) is None
        assert nodes.name_of(fingerprint("pi again")) == "pi"
        assert len(nodes.all()) == 2 and certificate("pi") not in nodes.certificates()


def test_one_certificate_has_one_name(known: KnownNodes) -> None:
    with pytest.raises(RefusedFault, match="enrolled already, as pi"):
        known.add("cellar", certificate("pi"), NOW)
    known.add("pi", certificate("pi"), NOW + 7)
    assert known.all()[1].enrolled == NOW + 7 and len(known.all()) == 2


@pytest.mark.parametrize("name", ["", ".", "..", ".pi", "-pi", "a/b", "a b", "pi\n", "x" * 65, "pï"])
def test_names_that_are_none(known: KnownNodes, name: str) -> None:
    with pytest.raises(ValueError):
        known.add(name, certificate("x"), NOW)
    assert len(known.all()) == 2


def test_nothing_but_the_certificate_is_kept(known: KnownNodes, tmp_path: Path) -> None:
    known.add("x", "-----junk-----\n" + certificate("x") + "trailing", NOW)
    assert certificate("x") in known.certificates() and "junk" not in known.certificates()


@pytest.mark.parametrize("content", [
    b"", b"{", b"[]", b"\xff", b"[" * 30000, b"x" * 40000, b'{"version": 2}',
    b'{"version": 1, "name": "pi", "enrolled": true, "certificate": ""}',
    json.dumps({"version": 1, "name": "attic", "enrolled": 1, "certificate": certificate("y")}).encode(),
    json.dumps({"version": 1, "name": "pi", "enrolled": 1, "certificate": "nonsense"}).encode(),
    json.dumps({"version": 1, "name": "pi", "enrolled": 1, "certificate": certificate("attic")}).encode(),
])
def test_a_damaged_file_costs_one_node_and_stays(
        known: KnownNodes, tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "nodes" / "pi.json"
    file.write_bytes(content)
    nodes = reopened(tmp_path)
    assert [node.name for node in nodes.all()] == ["attic"]
    assert "node pi is not known" in caplog.text and file.read_bytes() == content
    nodes.add("pi", certificate("pi"), NOW)
    assert len(reopened(tmp_path).all()) == 2


def test_a_file_that_is_no_node_is_passed_over(known: KnownNodes, tmp_path: Path) -> None:
    (tmp_path / "nodes" / ".pi.json.new").write_text("half")
    (tmp_path / "nodes" / "README").write_text("")
    (tmp_path / "nodes" / "dir.json").mkdir()
    assert len(reopened(tmp_path).all()) == 2


def test_what_cannot_be_written_has_not_happened(
        known: KnownNodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Fault, match="No space left"):
        known.add("pi", certificate("pi again"), NOW)
    monkeypatch.undo()
    for nodes in (known, reopened(tmp_path)):
        assert nodes.name_of(fingerprint("pi")) == "pi" and "pi" in nodes
    assert not list((tmp_path / "nodes").glob(".*"))


def test_who_was_seen_when_is_kept(known: KnownNodes, tmp_path: Path) -> None:
    known.seen("pi", "192.0.2.7:40000", NOW)
    known.seen("pi", "192.0.2.8:40001", NOW + 5)
    known.seen("nobody", "192.0.2.9:1", NOW)
    assert known.all()[1].last_peer == "192.0.2.8:40001" and known.all()[1].last_seen == NOW + 5
    assert reopened(tmp_path).all()[1].last_seen == NOW, "written at once, then not for a minute"
    known.flush()
    assert reopened(tmp_path).all()[1].last_seen == NOW + 5
    known.seen("attic", "x" * 1000, NOW + 5 + SEEN_INTERVAL)
    assert len(reopened(tmp_path).all()[0].last_peer) == 64


@pytest.mark.parametrize("content", [
    "", "[]", "{", '{"seen": 7}', '{"seen": {"pi": 1}}', '{"seen": {"pi": ["x", 1]}}', "[" * 9999])
def test_a_damaged_memory_of_who_was_seen_costs_nothing_else(
        known: KnownNodes, tmp_path: Path, content: str) -> None:
    (tmp_path / "last-seen.json").write_text(content)
    nodes = reopened(tmp_path)
    assert len(nodes.all()) == 2 and not nodes.all()[1].last_seen


def test_that_it_cannot_be_written_is_a_warning(
        known: KnownNodes, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "last-seen.json").mkdir()
    known.seen("pi", "192.0.2.7:40000", NOW)
    assert "cannot be written" in caplog.text and known.all()[1].last_seen == NOW
