"""vhci: tables as kernels print them, the port's hub, what the kernel refuses."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usbip_agent.device import Speed
from usbip_agent.errors import DeadlineFault, KernelFault, ModuleFault
from usbip_agent.kernel import sysfs
from usbip_agent.kernel.vhci import Hub, PortRow, PortState, Vhci, parse_status

# Debian's 6.12, with a stick, a keyboard, and a device that has no address yet.
NEW = """\
hub port sta spd dev      sockfd local_busid
hs  0000 006 003 00010002 000015 3-1
hs  0001 005 000 00000000 000000 0-0
hs  0002 004 000 00000000 000000 0-0
ss  0003 006 005 00020002 000013 4-1
ss  0004 007 000 00000000 000000 0-0
ss  0005 004 000 00000000 000000 0-0
"""

# 4.9, before ports had hubs.
OLD = """\
port sta spd dev      socket           local_busid
0000 004 000 00000000 0000000000000000 0-0
0001 006 003 00010002         c5a7bb80 2-3.4
"""

WIDE = NEW.replace("hs  0000 006", "hs  00000000    006")


def test_a_table_is_read() -> None:
    rows = parse_status(NEW)
    assert [row.port for row in rows] == [0, 1, 2, 3, 4, 5]
    assert rows[0] == PortRow(0, Hub.HIGH, PortState.USED, Speed.HIGH, 0x10002, 15, "3-1")
    assert rows[3] == PortRow(3, Hub.SUPER, PortState.USED, Speed.SUPER, 0x20002, 13, "4-1")
    assert [row.port for row in rows if row.is_free] == [2, 5]
    assert rows[1].local_bus_id == ""


def test_an_old_table_is_read() -> None:
    assert parse_status(OLD) == (
        PortRow(0, Hub.HIGH, PortState.FREE, Speed.UNKNOWN, 0, 0, ""),
        PortRow(1, Hub.HIGH, PortState.USED, Speed.HIGH, 0x10002, 0, "2-3.4"))


def test_columns_may_be_of_any_width() -> None:
    assert parse_status(WIDE) == parse_status(NEW)


@given(st.text())
def test_no_text_upsets_the_parser(text: str) -> None:
    parse_status(text)


@given(st.integers(0, len(NEW)))
def test_a_cut_table_gives_no_row_that_is_not_in_it(length: int) -> None:
    whole = parse_status(NEW)
    for row in parse_status(NEW[:length]):
        assert row.port <= 5
        assert row.is_free == whole[row.port].is_free or row.state != whole[row.port].state


def test_a_row_is_ours_by_devid_and_socket() -> None:
    row = parse_status(NEW)[0]
    assert row.may_carry(0x10002, 15)
    assert row.may_carry(0x10002, 0)
    assert not row.may_carry(0x10002, 3)  # usbip attach took the port with its own socket
    assert not row.may_carry(0x10003, 15)
    assert not parse_status(NEW)[2].may_carry(0, 0)


def test_a_row_without_an_address_may_be_ours() -> None:
    assert parse_status(NEW)[1].may_carry(0x10002, 15)


@pytest.mark.parametrize("speed, hub", [
    (Speed.LOW, Hub.HIGH), (Speed.FULL, Hub.HIGH), (Speed.HIGH, Hub.HIGH),
    (Speed.SUPER, Hub.SUPER), (Speed.SUPER_PLUS, Hub.SUPER)])
def test_the_speed_names_the_hub(speed: Speed, hub: Hub) -> None:
    assert Hub.for_speed(speed) is hub


@pytest.fixture
def sys_tree(tmp_path: Path) -> Path:
    """Two controllers of three ports a hub, as 6.12 lays them out."""
    first = tmp_path / "devices/platform/vhci_hcd.0"
    for controller in (0, 1):
        for number, speed in ((2 * controller + 3, "480"), (2 * controller + 4, "5000")):
            root_hub = first.parent / f"vhci_hcd.{controller}" / f"usb{number}"
            root_hub.mkdir(parents=True)
            (root_hub / "speed").write_text(f"{speed}\n")
            (root_hub / "busnum").write_text(f"{number}\n")
    (first / "nports").write_text("12\n")
    (first / "attach").write_text("")
    (first / "detach").write_text("")
    (first / "status").write_text(NEW)
    header, *_rows = NEW.splitlines(keepends=True)
    (first / "status.1").write_text(header + "".join(
        f"{'hs' if port < 9 else 'ss'}  {port:04} 004 000 00000000 000000 0-0\n" for port in range(6, 12)))
    return tmp_path


def test_every_controller_is_listed(sys_tree: Path) -> None:
    vhci = Vhci(sys_tree)
    assert vhci.is_loaded
    assert [row.port for row in vhci.rows()] == list(range(12))


def test_without_the_module_there_is_a_hint(tmp_path: Path) -> None:
    vhci = Vhci(tmp_path)
    assert not vhci.is_loaded and vhci.row(0) is None and vhci.local_bus_id(0, Hub.HIGH) == ""
    with pytest.raises(ModuleFault, match="modprobe vhci-hcd"):
        list(vhci.rows())


def test_later_tables_are_read_only_when_they_are_needed(sys_tree: Path) -> None:
    rows = Vhci(sys_tree).rows()
    assert next(rows).port == 0
    (sys_tree / "devices/platform/vhci_hcd.0/status.1").unlink()
    assert [row.port for row in rows] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("port, hub, local", [
    (0, Hub.HIGH, "3-1"), (2, Hub.HIGH, "3-3"), (3, Hub.SUPER, "4-1"), (5, Hub.SUPER, "4-3"),
    (6, Hub.HIGH, "5-1"), (10, Hub.SUPER, "6-2")])
def test_the_local_busid_is_known_beforehand(sys_tree: Path, port: int, hub: Hub, local: str) -> None:
    assert Vhci(sys_tree).local_bus_id(port, hub) == local


def test_a_device_is_enumerated_when_the_usb_core_has_its_name(tmp_path: Path) -> None:
    devices = tmp_path / "bus/usb/devices"
    devices.mkdir(parents=True)
    (devices / "3-1").symlink_to("../../../devices/that/is/just/going")
    vhci = Vhci(tmp_path)
    assert vhci.is_enumerated("3-1")
    assert not vhci.is_enumerated("3-2") and not vhci.is_enumerated("")


def test_attach_writes_what_the_kernel_reads(sys_tree: Path) -> None:
    Vhci(sys_tree).attach(2, 7, 0x10002, Speed.FULL)
    assert (sys_tree / "devices/platform/vhci_hcd.0/attach").read_text() == "2 7 65538 2"
    Vhci(sys_tree).detach(2)
    assert (sys_tree / "devices/platform/vhci_hcd.0/detach").read_text() == "2"


def test_super_plus_becomes_super_where_it_is_not_known(
        sys_tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []

    def write(attribute: Path, value: str) -> None:
        written.append(value)
        if value.endswith(" 6"):
            raise KernelFault("no such speed", errno=errno.EINVAL)

    monkeypatch.setattr(sysfs, "write", write)
    Vhci(sys_tree).attach(3, 7, 1, Speed.SUPER_PLUS)
    assert written == ["3 7 1 6", "3 7 1 5"]


def test_busy_is_not_tried_as_super(sys_tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(attribute: Path, value: str) -> None:
        raise KernelFault("taken", errno=errno.EBUSY)

    monkeypatch.setattr(sysfs, "write", write)
    with pytest.raises(KernelFault) as caught:
        Vhci(sys_tree).attach(3, 7, 1, Speed.SUPER_PLUS)
    assert caught.value.errno == errno.EBUSY


async def test_waiting_for_a_port_ends_at_its_deadline(sys_tree: Path) -> None:
    vhci = Vhci(sys_tree)
    free = await vhci.until("it", 2, lambda row: row is not None and row.is_free, deadline=0)
    assert free is not None and free.port == 2
    with pytest.raises(DeadlineFault, match="port 0: its release has not happened"):
        await vhci.until("its release", 0, lambda row: row is not None and row.is_free, deadline=0.02)
