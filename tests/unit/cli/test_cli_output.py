"""Tables, times, and text that devices choose."""

from __future__ import annotations

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st
from usbip_agent.cli.monitor import change_as_json, change_line
from usbip_agent.cli.output import ago, columns, duration, natural_order, print_line, print_table
from usbip_agent.cli.status import device_row, import_row
from usbip_agent.report import DeviceReport, ExportState, ImportReport, ImportState

HOSTILE = "\x1b[2J\x1b]0;owned\x07\nroot# \u202e\u0000\u2028" + "x" * 5000


def test_columns_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("A", "LONGER", "C"), [(("x", "y", "z"), ()), (("日本", "é", "last"), ("a note",))])
    assert capsys.readouterr().out == (
        "A     LONGER  C\n"
        "x     y       z\n"
        "日本  é       last\n"
        "      a note\n")


def test_hostile_text_stays_in_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    device = DeviceReport("1-1", vendor="dead", product="beef", manufacturer=HOSTILE, model=HOSTILE,
                          state=ExportState.FAILED, reason=HOSTILE, host=HOSTILE)
    imported = ImportReport(port=1, node=HOSTILE, peer=HOSTILE, bus_id=HOSTILE, model=HOSTILE,
                            device_nodes=(HOSTILE,))
    print_table(("A",) * 5, [device_row(device)])
    print_table(("A",) * 7, [import_row(imported)])
    print_line(change_line("changed", device, imported))
    said = capsys.readouterr().out
    assert all(character.isprintable() or character == "\n" for character in said)
    assert said.count("\n") == 3 + 3 + 1 and max(map(len, said.splitlines())) < 1100


@given(st.text(max_size=300))
def test_any_text_has_a_width(text: str) -> None:
    assert 0 <= columns(text) <= 2 * len(text)


@pytest.mark.parametrize(("elapsed", "shown"), [
    (0, "0 s"), (-2, "0 s"), (89, "89 s"), (90, "2 min"), (3600, "60 min"), (5400, "2 h"), (86399, "24 h")])
def test_recent_times_are_relative(elapsed: float, shown: str) -> None:
    now = 1_800_000_000.0
    assert ago(int((now - elapsed) * 1_000_000), now) == shown


def test_other_times_are_dates() -> None:
    now = 1_800_000_000.0
    assert ago(0, now) == "-"
    assert ago(1_700_000_000_000_000, now).startswith("2023-11-1")
    assert ago(1_900_000_000_000_000, now).startswith("2030-03-1")
    assert ago(0xFFFFFFFFFFFFFFFF, now) == "-" or ago(0xFFFFFFFFFFFFFFFF, now)[0].isdigit()
    assert duration(7199) == "2 h"


def test_busids_are_in_the_order_of_their_numbers() -> None:
    names = ["usbip-vudc.0", "1-10", "2-1", "1-2.10", "1-2", "1-2.9"]
    assert sorted(names, key=natural_order) == ["1-2", "1-2.9", "1-2.10", "1-10", "2-1", "usbip-vudc.0"]


def test_a_device_that_waits_says_why_and_until_when() -> None:
    import time
    cells, notes = device_row(DeviceReport(
        "1-1.4", vendor="10c4", product="ea60", manufacturer="Silicon Labs", model="CP2102", host="lab",
        state=ExportState.WAITING, reason="connection refused", attempts=2,
        next_attempt=int((time.time() + 8) * 1_000_000)))
    assert cells == ("1-1.4", "10c4:ea60 Silicon Labs CP2102", "waiting", "lab", "-")
    assert notes == ("connection refused", "attempt 3 in 8 s")


def test_a_connected_device_says_how() -> None:
    _, notes = device_row(DeviceReport("1-1.4", state=ExportState.CONNECTED, transport="plain",
                                       peer="10.9.0.1:3240", rule="zigbee stick", reason="stale"))
    assert notes == ("plain to 10.9.0.1:3240, by zigbee stick",)


def test_an_import_names_its_nodes() -> None:
    cells, notes = import_row(ImportReport(
        port=3, node="pi", peer="10.9.0.7:40000", bus_id="1-1.4", vendor="10c4", product="ea60",
        model="CP2102", local_bus_id="4-1", device_nodes=("/dev/ttyUSB0", "/dev/hidraw0"),
        state=ImportState.ATTACHED))
    assert cells == ("3", "pi (10.9.0.7:40000)", "1-1.4", "10c4:ea60 CP2102", "4-1", "-",
                     "/dev/ttyUSB0 /dev/hidraw0")
    assert notes == ()


def test_a_change_is_one_object() -> None:
    added = change_as_json("added", DeviceReport("1-1"))
    assert added["change"] == "added"
    assert set(added["device"]) == {each.name for each in fields(DeviceReport)}
    removed = change_as_json("removed", ImportReport())
    assert set(removed["import"]) == {each.name for each in fields(ImportReport)}


def test_a_change_is_one_line() -> None:
    before = DeviceReport("1-1", vendor="10c4", product="ea60", state=ExportState.CONNECTING)
    after = DeviceReport("1-1", vendor="10c4", product="ea60", state=ExportState.CONNECTED, host="lab")
    assert change_line("changed", after, before).split("  ")[1:] == [
        "1-1", "10c4:ea60", "connecting → connected", "lab"]
    assert change_line("removed", after).split("  ")[3] == "removed"
    assert change_line("added", ImportReport(port=2, bus_id="1-1")).split("  ")[1:4] == [
        "port 2", ":", "added, attaching"]
