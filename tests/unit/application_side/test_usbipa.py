"""The application side over real sockets on loopback; only the kernel's vhci is a fake."""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest

from tests.unit.application_side.fake_vhci import (
    PORTS_OF_A_HUB, FakeAppearances, FakeDisplay, FakeRecords, FakeStore, FakeVhci, device, offer)
from usbip_agent import wire
from usbip_agent.application_side import life
from usbip_agent.application_side.adoption import Adoption
from usbip_agent.application_side.imports import Imports
from usbip_agent.application_side.keeper import Keeper
from usbip_agent.application_side.life import Surroundings
from usbip_agent.application_side.listener import Listeners
from usbip_agent.application_side.negotiation import Negotiator
from usbip_agent.application_side.records import Record
from usbip_agent.application_side.usbipa import Overrides, Usbipa
from usbip_agent.device import Device, Speed
from usbip_agent.errors import ConfigurationFault, UnknownDeviceFault
from usbip_agent.kernel.device_nodes import Appearance
from usbip_agent.kernel.vhci import PortState
from usbip_agent.policy.usbipa import AcceptPolicy, ExportReply, Listener, ListenerTransport
from usbip_agent.transport.watch import LinkWatcher

PATIENCE = 10.0
"""Seconds that a test waits for what it expects; nothing takes long, the machine may be busy."""

OK_V9 = struct.pack(">HHII", 0x0111, 6, 0, 0)
OK_V14 = OK_V9[:8]


def refusal(status: int) -> bytes:
    return struct.pack(">HHII", 0x0111, 6, status, 0xFFFFFFFF)


def unexported(status: int) -> bytes:
    return struct.pack(">HHI", 0x0111, 7, status) + (b"" if status else bytes(4))


@dataclass
class Side:
    """A whole application side, and its peers."""

    vhci: FakeVhci = field(default_factory=FakeVhci)
    records: FakeRecords = field(default_factory=FakeRecords)
    store: FakeStore = field(default_factory=FakeStore)
    appearances: FakeAppearances = field(default_factory=FakeAppearances)
    display: FakeDisplay = field(default_factory=FakeDisplay)
    policy: AcceptPolicy = field(default_factory=lambda: AcceptPolicy(default_accept=True))
    deadline: float = PATIENCE
    port: int = 0
    peers: list[socket.socket] = field(default_factory=list)

    def start(self) -> None:
        """Listens on loopback, on any port."""
        self.watcher = LinkWatcher()
        self.keeper = Keeper(Surroundings(
            Imports(), self.vhci, self.records, self.store, self.appearances, self.display, self.watcher))
        self.listeners = Listeners(lambda *arguments: self.negotiator.serve(*arguments), (4,))
        self.usbipa = Usbipa(self.load, self.keeper, self.listeners, lambda: self.vhci.loaded,
                             Overrides())
        self.negotiator = Negotiator(self.usbipa, deadline=self.deadline)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.usbipa.configure()
        self.listeners.start()

    def load(self) -> AcceptPolicy:
        from dataclasses import replace

        plain = frozenset({ListenerTransport.PLAIN})
        return replace(self.policy, listen=self.policy.listen or (Listener("127.0.0.1", self.port, plain),))

    async def stop(self) -> None:
        await self.listeners.close()
        await self.keeper.end_all("the test is over")
        self.watcher.close()
        for peer in self.peers:
            peer.close()
        self.vhci.close()

    async def dial(self) -> socket.socket:
        peer = socket.socket()
        peer.setblocking(False)
        self.peers.append(peer)
        await asyncio.get_running_loop().sock_connect(peer, ("127.0.0.1", self.port))
        return peer

    async def ask(self, data: bytes) -> tuple[socket.socket, bytes]:
        """Sends *data* at once; the connection and the whole reply."""
        peer = await self.dial()
        await asyncio.get_running_loop().sock_sendall(peer, data)
        return peer, await heard(peer, 12)

    async def export(self, exported: Device | None = None) -> tuple[socket.socket, bytes]:
        return await self.ask(request(wire.Operation.EXPORT, exported))

    async def unexport(self, exported: Device | None = None) -> bytes:
        return (await self.ask(request(wire.Operation.UNEXPORT, exported)))[1]


def request(operation: wire.Operation, exported: Device | None = None) -> bytes:
    return wire.encode_request(wire.Request(operation, exported or device()))


async def heard(peer: socket.socket, most: int) -> bytes:
    """What *peer* is told until there is no more, or *most* bytes."""
    data = b""
    try:
        async with asyncio.timeout(PATIENCE):
            while len(data) < most:
                chunk = await asyncio.get_running_loop().sock_recv(peer, most - len(data))
                if not chunk:
                    break
                data += chunk
    except ConnectionResetError:
        pass
    return data


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not holds():
            await asyncio.sleep(0.001)


@pytest.fixture
async def side() -> AsyncIterator[Side]:
    made = Side()
    made.start()
    yield made
    await made.stop()
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    assert not left


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


@pytest.mark.parametrize("data", [
    b"GET / HTTP/1.1\r\n\r\n" + bytes(400), bytes(320), b"\x01\x00" + request(wire.Operation.EXPORT)[2:],
    request(wire.Operation.EXPORT)[:300] + b"\xff" * 20,
    struct.pack(">HHI", 0x0111, 0x8005, 0) + bytes(312)])
async def test_what_is_no_request_is_hung_up_on(side: Side, data: bytes) -> None:
    assert (await side.ask(data))[1] == b""
    assert (await side.export())[1] == OK_V9


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
    [living] = side.keeper._lives
    await until(lambda: living._check_task is not None and living._check_task.done())
    assert side.vhci.attached and not living._ended.done()


async def test_without_udev_the_table_tells_that_it_is_attached(
        side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(life, "SETTLE_INTERVAL", 0.01)
    await side.export()
    await until(lambda: 0 in side.display.shown and side.display.shown[0].state == "attached")


async def test_a_device_that_is_never_enumerated_is_given_up(
        side: Side, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(life, "SETTLE_INTERVAL", 0.01)
    monkeypatch.setattr(life, "SETTLE_DEADLINE", 0.05)
    side.vhci.state = PortState.NOT_ASSIGNED
    caplog.set_level("INFO")
    peer, _reply = await side.export()
    assert await heard(peer, 1) == b""
    await until(lambda: not list(side.keeper))
    assert "the device has not answered" in caplog.text


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
    assert side.vhci.taken_elsewhere == {0}


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


def test_a_port_of_the_command_line_stands_for_all() -> None:
    plain = frozenset({ListenerTransport.PLAIN})
    listeners = (Listener("*", 3240, plain), Listener("*", 3241, plain))
    assert Overrides(4000).apply(listeners) == (Listener("*", 4000, plain),)
    assert Overrides().apply(listeners) == listeners
