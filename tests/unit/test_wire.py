"""The PDUs: what goes in comes out, and whatever is damaged is a typed fault."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usbip_agent import wire
from usbip_agent.device import Device, Kind, Speed
from usbip_agent.errors import ProtocolFault

BUS_IDS = st.one_of(
    st.builds(lambda bus, ports: f"{bus}-{'.'.join(map(str, ports))}", st.integers(1, 999),
              st.lists(st.integers(1, 15), min_size=1, max_size=6)),
    st.builds(lambda number: f"usbip-vudc.{number}", st.integers(0, 15)))
HEX = st.integers(0, 0xFFFF).map(lambda number: f"{number:04x}")
BYTE = st.integers(0, 255)


@st.composite
def devices(draw: st.DrawFn) -> Device:
    bus_id = draw(BUS_IDS)
    return Device(
        kind=Kind.VUDC if bus_id.startswith("usbip-vudc") else Kind.USB, bus_id=bus_id,
        bus_number=draw(st.integers(0, 0xFFFF)), device_number=draw(st.integers(0, 0xFFFF)),
        speed=draw(st.sampled_from([speed for speed in Speed if speed is not Speed.UNKNOWN])),
        vendor=draw(HEX), product=draw(HEX), release=draw(st.integers(0, 0xFFFF)), device_class=draw(BYTE),
        device_subclass=draw(BYTE), device_protocol=draw(BYTE), configuration_value=draw(BYTE),
        configuration_count=draw(BYTE), interface_count=draw(BYTE), sys_path=f"/sys/devices/{bus_id}")


REQUESTS = st.builds(wire.Request, st.sampled_from(wire.Operation), devices())


@given(REQUESTS)
def test_a_request_survives_the_wire(request: wire.Request) -> None:
    data = wire.encode_request(request)
    assert len(data) == 320
    assert wire.decode_request(data) == request


def test_a_request_stands_on_the_wire_as_the_kernel_tools_write_it() -> None:
    device = Device(Kind.USB, "1-1.4", 1, 7, Speed.HIGH, "10c4", "ea60", release=0x0100, device_class=0xFF,
                    configuration_value=1, configuration_count=1, interface_count=2, sys_path="/sys/x")
    data = wire.encode_request(wire.Request(wire.Operation.EXPORT, device))
    assert data[:8] == bytes.fromhex("0111 8006 00000000")
    assert data[8:264] == b"/sys/x".ljust(256, b"\0")
    assert data[264:296] == b"1-1.4".ljust(32, b"\0")
    assert data[296:] == bytes.fromhex("00000001 00000007 00000003 10c4 ea60 0100 ff 00 00 01 01 02")


@given(REQUESTS, st.integers(0, 319))
def test_a_truncated_request_is_a_fault(request: wire.Request, length: int) -> None:
    with pytest.raises(ProtocolFault):
        wire.decode_request(wire.encode_request(request)[:length])


@given(st.binary(min_size=320, max_size=320))
def test_garbage_is_a_fault_or_a_request_that_encodes_to_the_same(data: bytes) -> None:
    try:
        request = wire.decode_request(data)
    except ProtocolFault:
        return
    assert wire.encode_request(request)[8:] == data[8:]


@given(REQUESTS, st.integers(0, 319), st.integers(1, 255))
def test_one_flipped_byte_never_passes_unseen(request: wire.Request, place: int, mask: int) -> None:
    """Either a fault, or a request that differs; the status word of a request says nothing."""
    data = bytearray(wire.encode_request(request))
    data[place] ^= mask
    try:
        decoded = wire.decode_request(bytes(data))
    except ProtocolFault:
        return
    assert decoded != request or 4 <= place < 8


@given(st.binary(max_size=400))
def test_any_bytes_are_a_request_or_a_fault(data: bytes) -> None:
    try:
        wire.decode_request(data)
    except ProtocolFault:
        pass


@pytest.mark.parametrize(("operation", "status", "with_code", "expected"), [
    (wire.Operation.EXPORT, 0, True, "0111 0006 00000000 00000000"),
    (wire.Operation.EXPORT, 1, True, "0111 0006 00000001 ffffffff"),
    (wire.Operation.EXPORT, 0, False, "0111 0006 00000000"),
    (wire.Operation.EXPORT, 2, False, "0111 0006 00000002"),
    (wire.Operation.UNEXPORT, 0, True, "0111 0007 00000000 00000000"),
    (wire.Operation.UNEXPORT, 3, True, "0111 0007 00000003"),
])
def test_replies_of_both_revisions(operation: wire.Operation, status: int, with_code: bool,
                                   expected: str) -> None:
    data = wire.encode_reply(operation, status, with_return_code=with_code)
    assert data == bytes.fromhex(expected)
    assert wire.decode_reply_header(data[:8], operation).status == status


@given(st.binary(max_size=12))
def test_a_reply_is_one_to_the_question_or_a_fault(data: bytes) -> None:
    try:
        reply = wire.decode_reply_header(data, wire.Operation.EXPORT)
    except ProtocolFault:
        return
    assert data[:4] == bytes.fromhex("01110006") and reply.operation is wire.Operation.EXPORT


def test_what_follows_an_ok_is_told_apart() -> None:
    assert wire.is_return_code(bytes(4))
    assert not wire.is_return_code(bytes.fromhex("00000001"))
    for other in ("00000002", "ffffffff", "01000000"):
        with pytest.raises(ProtocolFault):
            wire.is_return_code(bytes.fromhex(other))


@pytest.mark.parametrize(("bus_id", "speed"), [
    (b"../../etc", 3), (b"1-1 rm", 3), (b"", 3), (b"1-1\0x", 3), (b"\xff-1", 3), (b"1-1", 0), (b"1-1", 4),
    (b"1" * 32, 3),
])
def test_what_no_kernel_would_say_is_refused(bus_id: bytes, speed: int) -> None:
    good = Device(Kind.USB, "1-1", 1, 2, Speed.HIGH, "10c4", "ea60")
    data = bytearray(wire.encode_request(wire.Request(wire.Operation.EXPORT, good)))
    data[264:296] = bus_id.ljust(32, b"\0")
    data[304:308] = speed.to_bytes(4, "big")
    with pytest.raises(ProtocolFault):
        wire.decode_request(bytes(data))
