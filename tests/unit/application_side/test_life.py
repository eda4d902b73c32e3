"""The life of an import, whatever the kernel, udev and the peer do."""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import Callable

import pytest

from tests.unit.application_side.fake_vhci import PORTS_OF_A_HUB, FakeVhci, offer
from tests.unit.application_side.side import OK_V9, PATIENCE, Side, heard, request, until
from usbip_agent import wire
from usbip_agent.application_side import keeper, life
from usbip_agent.application_side.adoption import Adoption
from usbip_agent.application_side.imports import Imports
from usbip_agent.application_side.keeper import Keeper
from usbip_agent.application_side.life import Surroundings
from usbip_agent.application_side.records import Record
from usbip_agent.device import Speed
from usbip_agent.errors import UnknownDeviceFault
from usbip_agent.kernel.device_nodes import Appearance
from usbip_agent.kernel.vhci import PortState


async def test_an_export_is_attached(side: Side) -> None:
    side.appearances.known["3-1"] = Appearance(True, "CP2102", ("/dev/ttyUSB0",))
    peer, reply = await side.export()
    assert reply == OK_V9
    await until(lambda: 0 in side.display.shown and side.display.shown[0].state == "attached")
    report = side.display.shown[0].report
    assert (report.local_bus_id, report.model, report.device_nodes) == ("3-1", "CP2102", ("/dev/ttyUSB0",))
    assert report.peer == "%s:%d" % peer.getsockname()
    assert side.vhci.attached[0].devid == 0x10002
    assert side.records.kept[0].descriptor == side.vhci.attached[0].descriptor
    assert side.store.kept == {"import-0"}


@pytest.mark.parametrize("data", [
    b"GET / HTTP/1.1\r\n\r\n" + bytes(400), bytes(320), b"\x01\x00" + request(wire.Operation.EXPORT)[2:],
    request(wire.Operation.EXPORT)[:300] + b"\xff" * 20,
    struct.pack(">HHI", 0x0111, 0x8005, 0) + bytes(312)])
async def test_what_is_no_request_is_hung_up_on(side: Side, data: bytes) -> None:
    assert (await side.ask(data))[1] == b""
    assert (await side.export())[1] == OK_V9


async def test_a_port_that_is_taken_under_our_hands_is_left_for_another(side: Side) -> None:
    side.vhci.busy = {0, 1}
    assert (await side.export())[1] == OK_V9
    await until(lambda: side.vhci.attached)
    assert side.vhci.attempts == [0, 1, 2] and list(side.vhci.attached) == [2]
    assert list(side.records.kept) == [2]
    assert side.display.shown.keys() == {2}


async def test_a_controller_that_is_not_ready_is_tried_again(
        side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(life, "NOT_READY_PAUSES", (0.001, 0.001))
    side.vhci.refuse = errno.EAGAIN
    peer, _reply = await side.export()
    assert await heard(peer, 1) == b""
    assert side.vhci.attempts == [0, 0, 0]


@pytest.mark.parametrize("how", ["refused", "all busy"])
async def test_when_no_attach_succeeds_the_stub_sees_the_end(side: Side, how: str) -> None:
    if how == "refused":
        side.vhci.refuse = errno.EINVAL
    else:
        side.vhci.busy = set(range(PORTS_OF_A_HUB))
    peer, reply = await side.export()
    assert reply == OK_V9
    assert await heard(peer, 1) == b""
    await until(lambda: not list(side.keeper))
    assert not side.records.kept and not side.store.kept and not side.display.shown


async def test_a_link_that_ends_frees_its_port(side: Side) -> None:
    peer, _reply = await side.export()
    await until(lambda: side.store.kept)
    peer.close()
    await until(lambda: not list(side.keeper))
    assert not side.vhci.attached and not side.records.kept and not side.store.kept
    assert side.display.history[-2:] == [(0, "detaching"), (0, "hidden")]


async def test_a_port_that_the_kernel_does_not_free_by_itself_is_detached(
        side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(life, "OWN_RELEASE_DEADLINE", 0.02)
    await side.export()
    await until(lambda: side.store.kept)
    detached: list[int] = []

    def detach(vhci: FakeVhci, port: int) -> None:
        detached.append(port)
        vhci.end(port)

    monkeypatch.setattr(FakeVhci, "detach", detach)
    [living] = side.keeper._lives
    living.end("the link has ended", detach_first=False)
    monkeypatch.setattr(life, "shut_down", lambda link: None)  # a kernel that does not notice
    await until(lambda: not list(side.keeper))
    assert detached == [0]


async def test_detach_by_hand(side: Side) -> None:
    peer, _reply = await side.export()
    await until(lambda: side.vhci.attached)
    await side.usbipa.detach(0)
    assert not side.vhci.attached
    assert await heard(peer, 1) == b""
    with pytest.raises(UnknownDeviceFault):
        await side.usbipa.detach(0)


async def test_a_port_of_usbip_attach_cannot_be_detached_here(side: Side) -> None:
    side.vhci.taken_elsewhere = {0}
    with pytest.raises(UnknownDeviceFault):
        await side.usbipa.detach(0)


async def test_an_import_can_be_ended_while_it_is_attached(side: Side) -> None:
    import threading

    entered, go_on = threading.Event(), threading.Event()

    def hold(_port: int) -> None:
        entered.set()
        go_on.wait(PATIENCE)

    side.vhci.on_attach = hold
    peer, _reply = await side.export()
    await until(entered.is_set)
    ending = asyncio.create_task(side.usbipa.detach(0))
    await asyncio.sleep(0)
    go_on.set()
    await ending
    assert not side.vhci.attached and not list(side.keeper)
    assert await heard(peer, 1) == b""


async def test_an_attach_that_never_returns_ends_the_link(
        side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    from usbip_agent.errors import DeadlineFault

    go_on = threading.Event()

    async def impatient(what: str, call: Callable[[], None], **_: float) -> None:
        if not what.startswith("attach"):
            return call()
        threading.Thread(target=lambda: (go_on.wait(PATIENCE), call()), daemon=True).start()
        raise DeadlineFault("attach: no answer")

    monkeypatch.setattr(life, "in_thread", impatient)
    peer, _reply = await side.export()
    assert await heard(peer, 1) == b""
    await until(lambda: not list(side.keeper))
    # The thread still has the socket's number: it must not be another socket's by now.
    go_on.set()
    await until(lambda: side.vhci.attached)
    kernels = side.vhci.attached[0].kernels
    assert kernels.recv(1) == b""


async def test_udev_s_news_reach_the_display(side: Side) -> None:
    await side.export()
    await until(lambda: side.store.kept)
    assert side.display.shown[0].state == "attaching"
    side.appearances.known["3-1"] = Appearance(True, "Stick", ("/dev/sda", "/dev/sda1"))
    side.keeper.appearance_changed("3-1")
    assert side.display.shown[0].state == "attached"
    assert side.display.shown[0].device_nodes == ("/dev/sda", "/dev/sda1")
    side.keeper.appearance_changed("9-9")


async def test_a_device_that_goes_and_comes_on_its_link_stays(
        side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(life, "OWN_RELEASE_DEADLINE", 0.02)
    await side.export()
    await until(lambda: side.store.kept)
    side.appearances.known["3-1"] = Appearance(True, "Stick", ("/dev/sda",))
    side.keeper.appearance_changed("3-1")
    side.appearances.known.clear()
    side.keeper.appearance_changed("3-1")
    assert side.display.shown[0].state == "attaching"
    side.appearances.known["3-1"] = Appearance(True, "Stick", ("/dev/sda",))
    side.keeper.appearance_changed("3-1")
    assert side.display.shown[0].state == "attached"
    [living] = side.keeper._lives
    await until(lambda: living._settling is not None and living._settling.done())
    assert side.vhci.attached and not living._ended.done()


async def test_a_device_that_goes_and_does_not_come_back_is_given_up(
        side: Side, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The link lives on, and the kernel's table still says USED."""
    monkeypatch.setattr(life, "OWN_RELEASE_DEADLINE", 0.02)
    monkeypatch.setattr(life, "SETTLE_INTERVAL", 0.01)
    monkeypatch.setattr(life, "SETTLE_DEADLINE", 0.05)
    caplog.set_level("INFO")
    side.appearances.known["3-1"] = Appearance(True, "Stick", ("/dev/sda",))
    peer, _reply = await side.export()
    await until(lambda: 0 in side.display.shown and side.display.shown[0].state == "attached")
    side.appearances.known.clear()
    side.keeper.appearance_changed("3-1")
    assert await heard(peer, 1) == b""
    await until(lambda: not list(side.keeper))
    assert "the device has not answered" in caplog.text


async def test_without_udev_the_usb_core_tells_that_it_is_attached(
        side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(life, "SETTLE_INTERVAL", 0.01)
    side.vhci.enumerated = {"3-1"}
    await side.export()
    await until(lambda: 0 in side.display.shown and side.display.shown[0].state == "attached")


@pytest.mark.parametrize(("state", "before"), [
    (PortState.NOT_ASSIGNED, False), (PortState.USED, False), (PortState.NOT_ASSIGNED, True)])
async def test_a_device_that_is_never_enumerated_is_given_up(
        side: Side, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
        state: PortState, before: bool) -> None:
    """Also when what was on the port *before* is still there: the USB core takes it for this one."""
    if before:
        side.vhci.enumerated = {"3-1"}
        side.appearances.known["3-1"] = Appearance(True, "Stick", ("/dev/sda",))
    monkeypatch.setattr(life, "SETTLE_INTERVAL", 0.01)
    monkeypatch.setattr(life, "SETTLE_DEADLINE", 0.05)
    side.vhci.state = state
    caplog.set_level("INFO")
    peer, _reply = await side.export()
    assert await heard(peer, 1) == b""
    await until(lambda: not list(side.keeper))
    assert "the device has not answered" in caplog.text


async def test_a_restart_leaves_everything_and_the_next_process_goes_on(side: Side) -> None:
    peer, _reply = await side.export()
    await until(lambda: side.store.kept)
    attached = side.vhci.attached[0]
    await side.keeper.leave(PATIENCE)
    assert side.vhci.attached and side.records.kept and side.store.kept == {"import-0"}

    [record] = side.records.kept.values()
    [row] = [row for row in side.vhci.rows() if row.port == 0]
    side.keeper = Keeper(Surroundings(
        Imports(), side.vhci, side.records, side.store, side.appearances, side.display, side.watcher))
    side.keeper.adopt(Adoption(record, row, attached.kernels.dup().detach()))
    [entry] = side.keeper
    assert (entry.port, entry.local_bus_id, entry.since) == (0, "3-1", record.since)
    await asyncio.sleep(0)
    peer.close()
    await until(lambda: not list(side.keeper))
    assert not side.vhci.attached and not side.records.kept and not side.store.kept


async def test_an_adopted_import_without_its_socket_ends_with_its_device(
        side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = socket.socketpair()
    with left, right:
        side.vhci.attach(0, left.fileno(), offer().devid, Speed.HIGH)
        record = Record(0, left.fileno(), offer(), "r", 1)
        [row] = [row for row in side.vhci.rows() if row.port == 0]
        side.appearances.known["3-1"] = Appearance(True, "Stick", ("/dev/sda",))
        side.keeper.adopt(Adoption(record, row, None))
        await until(lambda: side.display.shown and side.display.shown[0].state == "attached")
        side.vhci.end(0)
        side.appearances.known.clear()
        side.keeper.appearance_changed("3-1")
        await until(lambda: not list(side.keeper))


async def test_a_port_that_somebody_else_has_by_now_is_not_detached(side: Side) -> None:
    await side.export()
    await until(lambda: side.store.kept)
    side.vhci.end(0)
    side.vhci.taken_elsewhere = {0}
    await until(lambda: not list(side.keeper))
    assert side.vhci.detached == []


async def test_nor_is_it_detached_by_hand(side: Side) -> None:
    await side.export()
    await until(lambda: side.store.kept)
    side.vhci.end(0)
    side.vhci.taken_elsewhere = {0}
    await side.keeper.end(0, "detached by hand")
    assert side.vhci.detached == []


async def test_a_port_that_the_kernel_gave_up_is_freed_at_the_next_start(side: Side) -> None:
    left, right = socket.socketpair()
    with left, right:
        side.vhci.attach(0, left.fileno(), offer().devid, Speed.HIGH)
        side.vhci.state = PortState.ERROR
        side.records.write(Record(0, left.fileno(), offer(), "r", 1))
        [row] = [row for row in side.vhci.rows() if row.port == 0]
        side.keeper.adopt(Adoption(side.records.kept[0], row, None))
        await until(lambda: not list(side.keeper))
        assert not side.vhci.attached and not side.records.kept


async def test_whoever_starts_after_a_crash_knows_of_every_attachment(side: Side) -> None:
    known: list[bool] = []
    side.vhci.on_attach = lambda port: known.append(port in side.records.kept)
    side.vhci.busy = {0}
    await side.export()
    await until(lambda: side.vhci.attached)
    assert known == [True, True]


async def test_an_old_import_that_the_kernel_does_not_let_go_of_keeps_nobody_out(
        side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "REPLACE_DEADLINE", 0.05)
    await side.export()
    await until(lambda: side.vhci.attached)
    held, side.vhci.end = side.vhci.end, lambda port: None  # type: ignore[assignment]
    assert (await side.export())[1] == OK_V9
    await until(lambda: 1 in side.vhci.attached)
    side.vhci.end = held  # type: ignore[assignment]
