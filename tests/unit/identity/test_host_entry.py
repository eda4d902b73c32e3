"""The host's entry on the node: valid beside all else before anything is written, and nobody's file lost."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.identity.samples import CODE, FINGERPRINT
from usbip_agent.errors import Fault, UsageFault
from usbip_agent.identity.host_entry import stage_entry
from usbip_agent.identity.join_code import JoinCode
from usbip_agent.names import AGENT, Service
from usbip_agent.policy.agent import Host, InvalidConfiguration, load_agent_policy
from usbip_agent.policy.transports import Transport

MAIN = """\
version: 1
hosts: {backup: {address: 192.0.2.7}}
rules: [{name: stick, match: {vendor: 10c4}, connect: backup}]
"""
OTHER = "sha256:" + "77" * 32


@pytest.fixture
def service(tmp_path: Path) -> Service:
    (tmp_path / "agent.yaml").write_text(MAIN)
    return replace(AGENT, configuration=tmp_path / "agent.yaml", drop_ins=tmp_path / "agent.d")


def files_of(service: Service) -> dict[str, str]:
    return {path.name: path.read_text() for path in service.configuration.parent.rglob("*") if path.is_file()}


def host_of(service: Service, name: str = "lab") -> Host:
    host = load_agent_policy(service.configuration, service.drop_ins).host(name)
    assert host is not None
    return host


def test_it_is_in_force_when_committed_and_not_before(service: Service) -> None:
    staged = stage_entry(service, "lab", CODE)
    assert load_agent_policy(service.configuration, service.drop_ins).host("lab") is None
    staged.commit()
    host = host_of(service)
    assert host == staged.host == Host("lab", "lab.example.net", 3240, Transport.TLS, fingerprint=FINGERPRINT)
    assert stat.S_IMODE(staged.file.stat().st_mode) == 0o600 and staged.file.name == "lab.yaml"
    assert set(files_of(service)) == {"agent.yaml", "lab.yaml"}


def test_discarded_it_leaves_nothing(service: Service) -> None:
    before = files_of(service)
    stage_entry(service, "lab", CODE).discard()
    assert files_of(service) == before


def test_over_the_web_and_through_a_proxy(service: Service) -> None:
    code = JoinCode("", 0, FINGERPRINT, CODE.secret, "pi", "lab", "wss://lab.example.net/usbip?a=%20&b")
    stage_entry(service, "lab", code, proxy="http://us%20er:p'a$s%23@proxy:3128").commit()
    host = host_of(service)
    assert (host.transport, host.url, host.fingerprint) == (Transport.WSS, code.url, FINGERPRINT)
    assert host.proxy is not None and (host.proxy.user, host.proxy.password) == ("us er", "p'a$s#")


@pytest.mark.parametrize("address", ["192.0.2.7", "2001:db8::7", "fe80::1%eth0", "no", "1e10.x", "null"])
def test_any_address_keeps_its_characters(service: Service, address: str) -> None:
    stage_entry(service, "lab", replace(CODE, address=address)).commit()
    assert host_of(service).address == address


@pytest.mark.parametrize("name", ["no", "1e10", "null", "0x7", "lab.example.net", "_x"])
def test_any_name_keeps_its_characters(service: Service, name: str) -> None:
    stage_entry(service, name, CODE).commit()
    assert host_of(service, name).fingerprint == FINGERPRINT


@pytest.mark.parametrize("name", ["", "../agent", ".x", "-x", "a/b", "a\nb"])
def test_names_that_are_none(service: Service, name: str) -> None:
    with pytest.raises(UsageFault):
        stage_entry(service, name, CODE)
    assert set(files_of(service)) == {"agent.yaml"}


def test_a_host_of_that_name_in_another_file(service: Service) -> None:
    before = files_of(service)
    with pytest.raises(UsageFault, match=r'"backup" stands in .*agent.yaml:2 already') as caught:
        stage_entry(service, "backup", CODE, replace_other=True)
    assert "--name" in caught.value.hint and files_of(service) == before


def test_joining_again_replaces_what_join_wrote(service: Service) -> None:
    stage_entry(service, "lab", CODE).commit()
    with service.configuration.open("a") as file:
        file.write("default: {connect: lab}\n")
    stage_entry(service, "lab", replace(CODE, address="192.0.2.9", port=3241)).commit()
    assert (host_of(service).address, host_of(service).port) == ("192.0.2.9", 3241)


def test_another_certificate_only_when_asked(service: Service) -> None:
    stage_entry(service, "lab", CODE).commit()
    before = files_of(service)
    changed = replace(CODE, fingerprint=OTHER)
    with pytest.raises(UsageFault, match=FINGERPRINT) as caught:
        stage_entry(service, "lab", changed)
    assert "--replace" in caught.value.hint and files_of(service) == before
    stage_entry(service, "lab", changed, replace_other=True).commit()
    assert host_of(service).fingerprint == OTHER


@pytest.mark.parametrize("text", [
    "version: 1\nhosts: {lab: {address: a}, b: {address: b}}\n",
    "version: 1\nhosts: {lab: {address: a}}\nrules: []\n", "version: 1\nhosts: {}\n", "version: 1\nhosts:\n",
    "version: 1\nhosts: {other: {address: a}}\n", "", "{", "version: 1\nhosts: {lab: x}\n", "x" * 100_000])
@pytest.mark.parametrize("replace_other", [False, True])
def test_a_file_that_holds_more_or_else_is_never_replaced(
        service: Service, text: str, replace_other: bool) -> None:
    service.drop_ins.mkdir()
    (service.drop_ins / "lab.yaml").write_text(text)
    with pytest.raises(UsageFault, match="holds more than the host"):
        stage_entry(service, "lab", CODE, replace_other=replace_other)
    assert files_of(service)["lab.yaml"] == text


def test_a_host_that_was_not_pinned_is_another(service: Service) -> None:
    service.drop_ins.mkdir()
    (service.drop_ins / "lab.yaml").write_text("version: 1\nhosts: {lab: {address: a, transport: plain}}\n")
    with pytest.raises(UsageFault, match="none"):
        stage_entry(service, "lab", CODE)
    stage_entry(service, "lab", CODE, replace_other=True).commit()
    assert host_of(service).fingerprint == FINGERPRINT


def test_a_configuration_that_is_invalid_already_is_said_as_such(service: Service) -> None:
    service.configuration.write_text("version: 1\nrulez: []\n")
    with pytest.raises(InvalidConfiguration, match="agent.yaml:2"):
        stage_entry(service, "lab", CODE)
    assert set(files_of(service)) == {"agent.yaml"}


def test_a_bad_proxy_is_no_secret_told(service: Service) -> None:
    with pytest.raises(UsageFault) as caught:
        stage_entry(service, "lab", CODE, proxy="https://user:hunter2@proxy")
    assert "hunter2" not in str(caught.value) and set(files_of(service)) == {"agent.yaml"}


def test_what_an_earlier_attempt_left_is_no_obstacle(service: Service) -> None:
    service.drop_ins.mkdir()
    (service.drop_ins / ".lab.yaml.new").symlink_to(service.configuration)
    stage_entry(service, "lab", CODE).commit()
    assert service.configuration.read_text() == MAIN and set(files_of(service)) == {"agent.yaml", "lab.yaml"}


def test_where_it_cannot_be_written(service: Service) -> None:
    service.drop_ins.write_text("in the way")
    with pytest.raises(Fault):
        stage_entry(service, "lab", CODE)
