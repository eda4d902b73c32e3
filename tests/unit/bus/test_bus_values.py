"""Paths, values and frames: what needs no bus."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from usbip_agent.bus.marshalling import (
    SIGNATURES_KEPT, Framer, Kind, Message, _signature, encode, plain, variant)
from usbip_agent.bus.operations import Explanation, ExplanationStep
from usbip_agent.bus.paths import child_path, escape, path_of, unescape
from usbip_agent.bus.publisher import Publisher
from usbip_agent.bus.values import explanation_of, report_of, variants_of, variants_of_explanation
from usbip_agent.names import AGENT, USBIPA
from usbip_agent.report import DeviceReport, ImportReport


@pytest.mark.parametrize("text, element", [
    ("1-1.4", "_31_2d1_2e4"), ("usbip-vudc.0", "usbip_2dvudc_2e0"), ("", "_"), ("_", "_5f"), ("a1", "a1"),
    ("Ω", "_ce_a9"), ("²", "_c2_b2"), ("/", "_2f"), ("\0", "_00"),
])
def test_escape_is_that_of_sd_bus(text: str, element: str) -> None:
    assert escape(text) == element
    assert unescape(element) == text


def test_paths() -> None:
    assert path_of(AGENT, DeviceReport("1-1.4")) == "/org/usbip/Agent1/device/_31_2d1_2e4"
    assert path_of(USBIPA, ImportReport(15)) == child_path(USBIPA, 15) == "/org/usbip/Usbipa1/import/15"


def test_a_report_survives_the_way_there_and_back() -> None:
    device = DeviceReport("1-1", vendor="10c4", classes=("hid", "vendor"), since=1 << 60, attempts=7)
    assert report_of(AGENT, variants_of(device)) == device
    port = ImportReport(239, device_nodes=("/dev/sda",), local_bus_id="4-1")
    assert report_of(USBIPA, variants_of(port)) == port


def test_a_report_of_another_version() -> None:
    known = DeviceReport("1-1", state="connected")
    with_more = {"BusId": variant("s", "1-1"), "Colour": variant("s", "red")}
    assert report_of(AGENT, with_more) == DeviceReport("1-1")
    assert report_of(AGENT, {"State": variant("s", "held")}, known) == DeviceReport("1-1", state="held")


def test_an_explanation_survives_the_way_there_and_back() -> None:
    step = ExplanationStep("a", "agent.yaml:3", True, "vendor")
    explanation = Explanation("a", "connect", ("lab",), (step,))
    assert explanation_of(variants_of_explanation(explanation)) == explanation
    assert explanation_of({}) == Explanation("", "", (), ())


def test_what_looks_the_same_outside_is_no_change() -> None:
    sent: list[str] = []
    publisher = Publisher(AGENT, lambda path, interface, member, signature, body: sent.append(member))
    publisher.put(DeviceReport("1-1", attempts=-1))
    publisher.put(DeviceReport("1-1", attempts=-2))
    publisher.remove("1-2")
    assert sent == ["InterfacesAdded"]
    assert [report.bus_id for _, report in publisher if isinstance(report, DeviceReport)] == ["1-1"]


def signal(text: str, serial: int = 1) -> bytes:
    return encode(Message(Kind.SIGNAL, path="/x", interface="a.b", member="C", serial=serial,
                          signature="sv", body=[text, variant("as", [text])]))


def texts(messages: Iterator[Message]) -> list[str]:
    return [message.body[0] for message in messages]


@pytest.mark.parametrize("step", [1, 7, 16, 1000])
def test_frames_come_in_any_pieces(step: int) -> None:
    data = signal("one") + signal("two") + signal("three")
    framer, found = Framer(1000), list[str]()
    for start in range(0, len(data), step):
        found += texts(framer.feed(data[start:start + step]))
    assert found == ["one", "two", "three"]


@pytest.mark.parametrize("step", [1, 100, 10_000])
def test_a_frame_beyond_the_limit_costs_no_memory(step: int) -> None:
    data = signal("x" * 5000) + signal("small")
    framer, found = Framer(1000), list[str]()
    for start in range(0, len(data), step):
        found += texts(framer.feed(data[start:start + step]))
        assert len(framer._buffer) <= max(1000, step)
    assert found == ["small"]


def test_what_does_not_parse_is_dropped_alone() -> None:
    unknown_type = bytearray(signal("odd"))
    unknown_type[1] = 9
    unknown_field = bytearray(signal("odd"))
    unknown_field[16] = 99
    assert texts(Framer(1000).feed(bytes(unknown_type + unknown_field + signal("fine")))) == ["fine"]


def test_what_is_no_dbus_is_an_error() -> None:
    with pytest.raises(ValueError):
        list(Framer(1000).feed(b"HTTP/1.1 200 OK\r\n"))


def test_signatures_of_strangers_are_not_kept() -> None:
    framer = Framer(10_000)
    for number in range(3 * SIGNATURES_KEPT):
        kind = "".join("y" if number >> bit & 1 else "n" for bit in range(10))
        data = encode(Message(Kind.SIGNAL, path="/x", interface="a.b", member="C", serial=1, signature="v",
                              body=[variant(f"({kind})", [0] * 10)]))
        assert [plain(message.body[0]) for message in framer.feed(data)] == [[0] * 10]
    assert len(_signature.SignatureTree._cache) <= SIGNATURES_KEPT + 3
