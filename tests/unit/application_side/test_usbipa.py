"""What peers, the bus and reloads get from the application side."""

from __future__ import annotations

import asyncio
import socket
import threading

import pytest

from tests.unit.application_side.fake_vhci import PORTS_OF_A_HUB, device
from tests.unit.application_side.side import (
    OK_V14, OK_V9, PATIENCE, Side, heard, refusal, request, unexported, until)
from usbip_agent import wire
from usbip_agent.application_side.listener import Listeners
from usbip_agent.application_side.usbipa import Overrides
from usbip_agent.device import Device, Speed
from usbip_agent.errors import ConfigurationFault, Fault
from usbip_agent.policy.usbipa import AcceptPolicy, ExportReply, Listener, ListenerTransport


async def test_bytes_after_the_reply_are_the_kernel_s(side: Side) -> None:
    peer, _reply = await side.export()
    peer.sendall(b"first urb")
    await until(lambda: side.vhci.attached)
    kernels = side.vhci.attached[0].kernels
    await until(lambda: kernels.recv(99, socket.MSG_PEEK | socket.MSG_DONTWAIT) if readable(kernels) else b"")
    assert kernels.recv(99) == b"first urb"


def readable(connected: socket.socket) -> bool:
    try:
        return bool(connected.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return False


async def test_the_socket_is_tuned_to_notice_a_dead_peer(side: Side) -> None:
    await side.export()
    await until(lambda: side.vhci.attached)
    kernels = side.vhci.attached[0].kernels
    assert kernels.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert kernels.getsockopt(socket.IPPROTO_TCP, 18) == 10_000


async def test_v14_s_reply_has_eight_bytes(side: Side) -> None:
    side.policy = AcceptPolicy(default_accept=True, export_reply=ExportReply.V14)
    await side.usbipa.reload()
    peer = await side.dial()
    peer.sendall(request(wire.Operation.EXPORT))
    assert await heard(peer, 8) == OK_V14
    await until(lambda: side.vhci.attached)
    assert not readable(peer)


async def test_who_is_rejected_is_told(side: Side, caplog: pytest.LogCaptureFixture) -> None:
    side.policy = AcceptPolicy()
    await side.usbipa.reload()
    assert (await side.export())[1] == refusal(1)
    assert "refused EXPORT of 1-1 (10c4:ea60)" in caplog.text and "no rule matches" in caplog.text
    assert not side.vhci.attempts


async def test_without_the_module_exports_are_refused(side: Side, caplog: pytest.LogCaptureFixture) -> None:
    side.vhci.loaded = False
    assert (await side.export())[1] == refusal(1)
    assert "vhci-hcd is not loaded" in caplog.text
    assert side.usbipa.status.startswith("vhci-hcd is not loaded")


async def test_a_full_hub_is_told_and_the_other_hub_is_open(side: Side) -> None:
    side.vhci.taken_elsewhere = set(range(PORTS_OF_A_HUB))
    assert (await side.export())[1] == refusal(2)
    assert (await side.export(device(speed=Speed.SUPER)))[1] == OK_V9


async def test_bytes_before_the_reply_end_the_connection(side: Side) -> None:
    assert (await side.ask(request(wire.Operation.EXPORT) + b"x"))[1] == b""
    await until(lambda: not len(list(side.keeper)))
    assert not side.vhci.attempts


@pytest.mark.parametrize("said", [0, 1, 7, 8, 9, 319])
async def test_silence_ends_at_the_deadline_and_costs_nobody(said: int) -> None:
    side = Side(deadline=0.3)
    side.start()
    try:
        silent = await side.dial()
        silent.sendall(request(wire.Operation.EXPORT)[:said])
        assert (await side.export())[1] == OK_V9
        assert await heard(silent, 1) == b""
    finally:
        await side.stop()


async def test_a_request_may_come_byte_by_byte(side: Side) -> None:
    peer = await side.dial()
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in request(wire.Operation.EXPORT):
        peer.sendall(bytes([byte]))
        await asyncio.sleep(0)
    assert await heard(peer, 12) == OK_V9


async def test_a_peer_that_hangs_up_in_the_middle_leaves_nothing(side: Side) -> None:
    peer = await side.dial()
    peer.sendall(request(wire.Operation.EXPORT)[:100])
    peer.close()
    assert (await side.export())[1] == OK_V9
    await until(lambda: not side.listeners._negotiating)
    assert len(list(side.keeper)) == 1


async def test_thirty_two_at_once_get_thirty_two_ports(side: Side) -> None:
    replies = await asyncio.gather(*(
        side.export(device(f"1-{number}", number)) for number in range(1, PORTS_OF_A_HUB + 1)))
    assert {reply for _peer, reply in replies} == {OK_V9}
    await until(lambda: len(side.vhci.attached) == PORTS_OF_A_HUB)
    assert sorted(side.vhci.attempts) == list(range(PORTS_OF_A_HUB))
    assert (await side.export(device("2-1", 99)))[1] == refusal(2)


async def test_unexport_is_answered_when_the_port_is_free(side: Side) -> None:
    peer, _reply = await side.export()
    await until(lambda: side.vhci.attached)
    assert await side.unexport() == unexported(0)
    assert not side.vhci.attached and not list(side.keeper)
    assert await heard(peer, 1) == b""
    assert await side.unexport() == unexported(3)


@pytest.mark.parametrize("other", [device(number=3), device(vendor="0403"), device("1-2")])
async def test_unexport_of_another_device_is_refused(side: Side, other: Device) -> None:
    await side.export()
    await until(lambda: side.vhci.attached)
    assert await side.unexport(other) == unexported(3)
    assert side.vhci.attached


async def test_an_export_again_replaces_the_old_one(side: Side) -> None:
    old, _reply = await side.export()
    await until(lambda: side.vhci.attached)
    _new, reply = await side.export()
    assert reply == OK_V9
    assert await heard(old, 1) == b""
    await until(lambda: side.vhci.attached)
    assert list(side.vhci.attached) == [0] and len(list(side.keeper)) == 1


async def test_two_devices_of_one_address_live_side_by_side(side: Side) -> None:
    await side.export(device(number=2))
    await side.export(device(number=3))
    await until(lambda: len(side.vhci.attached) == 2)


async def test_a_rule_change_ends_what_is_no_longer_accepted(side: Side) -> None:
    await side.export()
    await until(lambda: side.vhci.attached)
    await side.usbipa.reload()
    assert side.vhci.attached
    side.policy = AcceptPolicy()
    await side.usbipa.reload()
    assert not side.vhci.attached and not list(side.keeper)


async def test_a_bad_reload_changes_nothing(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    await side.export()
    await until(lambda: side.vhci.attached)

    def broken() -> AcceptPolicy:
        raise ConfigurationFault("usbipa.yaml:3: no such key")

    monkeypatch.setattr(side.usbipa, "_load_policy", broken)
    with pytest.raises(ConfigurationFault):
        await side.usbipa.reload()
    assert side.vhci.attached
    assert (await side.export(device("1-2")))[1] == OK_V9


async def test_a_reload_that_takes_long_holds_up_nobody(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    read = threading.Event()

    def slowly() -> AcceptPolicy:
        read.wait(PATIENCE)
        return side.load()

    monkeypatch.setattr(side.usbipa, "_load_policy", slowly)
    reload = asyncio.create_task(side.usbipa.reload())
    assert (await side.export())[1] == OK_V9
    assert not reload.done()
    read.set()
    await reload


async def test_the_status_line_says_what_matters(side: Side) -> None:
    where = f"listening on 127.0.0.1:{side.port} (plain)"
    assert side.usbipa.status == f"0 imported, {where}"
    await side.export()
    await until(lambda: side.store.kept)
    assert side.usbipa.status == f"1 imported (1 attaching), {where}"
    await side.listeners.close()
    assert "listening nowhere" in side.usbipa.status


async def test_a_listener_without_plain_takes_no_plain(side: Side, caplog: pytest.LogCaptureFixture) -> None:
    side.policy = AcceptPolicy(default_accept=True, listen=(
        Listener("127.0.0.1", side.port, frozenset({ListenerTransport.TLS})),))
    await side.usbipa.reload()
    assert (await side.export())[1] == b""
    assert "this listener takes tls only" in caplog.text


PLAIN, WS, TLS = (frozenset({each}) for each in (
    ListenerTransport.PLAIN, ListenerTransport.WS, ListenerTransport.TLS))


async def test_nodes_are_told_a_port_where_they_can_join(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    open_ports = [Listener("*", 3240, PLAIN), Listener("*", 3241, WS), Listener("*", 3242, TLS | PLAIN),
                  Listener("*", 3243, TLS)]
    monkeypatch.setattr(Listeners, "listening", property(lambda _: tuple(open_ports)))
    assert side.usbipa.first_port == 3242
    del open_ports[2:]
    with pytest.raises(Fault, match="no listener takes tls"):
        assert side.usbipa.first_port


def test_a_port_of_the_command_line_stands_for_all() -> None:
    plain = frozenset({ListenerTransport.PLAIN})
    listeners = (Listener("*", 3240, plain), Listener("*", 3241, plain))
    assert Overrides(4000).apply(listeners) == (Listener("*", 4000, plain),)
    assert Overrides().apply(listeners) == listeners
