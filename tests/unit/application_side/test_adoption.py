"""What a process finds at its start: records, the kernel's table, and the sockets that systemd kept."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.application_side.fake_vhci import device, offer
from usbip_agent.application_side.adoption import Plan, plan, stored_name
from usbip_agent.application_side.records import Record, Records
from usbip_agent.device import Speed
from usbip_agent.kernel.vhci import Hub, PortRow, PortState
from usbip_agent.service.notify import StoredDescriptor

DEVID = offer().devid


def record(port: int, descriptor: int = 9) -> Record:
    return Record(port, descriptor, offer(), "kitchen", 17)


def row(port: int, state: PortState = PortState.USED, devid: int = DEVID, descriptor: int = 9) -> PortRow:
    return PortRow(port, Hub.HIGH, state, Speed.HIGH, devid, descriptor, "3-1")


def test_what_the_kernel_still_carries_is_adopted_with_its_link() -> None:
    found = plan([row(0), row(1)], [record(0)], [StoredDescriptor("import-0", 4)])
    [adoption] = found.adopt
    assert adoption.descriptor == 4 and not adoption.is_broken
    assert (found.stale_records, found.stray_descriptors) == ((), ())


def test_without_its_link_it_is_adopted_all_the_same() -> None:
    assert plan([row(0)], [record(0)], []).adopt[0].descriptor is None


def test_a_death_right_after_the_attach_leaves_an_import_without_an_address() -> None:
    assert plan([row(0, PortState.NOT_ASSIGNED, 0, 0)], [record(0)], []).adopt


def test_a_port_in_error_is_adopted_to_be_ended() -> None:
    assert plan([row(0, PortState.ERROR, 0, 0)], [record(0)], []).adopt[0].is_broken


@pytest.mark.parametrize("now", [
    [], [row(0, PortState.FREE, 0, 0)], [row(0, devid=DEVID + 1)], [row(0, descriptor=3)], [row(1)]])
def test_a_record_that_the_kernel_does_not_confirm_is_stale(now: list[PortRow]) -> None:
    found = plan(now, [record(0)], [StoredDescriptor("import-0", 4)])
    assert found == Plan((), (record(0),), (StoredDescriptor("import-0", 4),))


def test_ports_without_a_record_are_somebody_else_s() -> None:
    assert plan([row(0), row(1)], [], []) == Plan((), (), ())


def test_of_two_links_for_one_port_the_newer_is_it() -> None:
    found = plan([row(0)], [record(0)], [StoredDescriptor("import-0", 4), StoredDescriptor("import-0", 5)])
    assert found.adopt[0].descriptor == 5
    assert found.stray_descriptors == (StoredDescriptor("import-0", 4),)


def test_what_is_no_link_of_an_import_is_not_touched() -> None:
    assert plan([], [], [StoredDescriptor("listen", 3), StoredDescriptor("import-x", 4)]) == Plan((), (), ())


def _port(each: PortRow | Record) -> int:
    return each.port


def _descriptor(each: StoredDescriptor) -> int:
    return each.descriptor


ROWS = st.builds(row, st.integers(0, 3), st.sampled_from(PortState), st.sampled_from([DEVID, 5]),
                 st.sampled_from([3, 9]))


@given(st.lists(ROWS, unique_by=_port),
       st.lists(st.builds(record, st.integers(0, 3)), unique_by=_port),
       st.lists(st.builds(StoredDescriptor, st.sampled_from([stored_name(n) for n in range(4)]),
                          st.integers(3, 99)), unique_by=_descriptor))
def test_nothing_is_lost_and_nothing_taken_twice(
        rows: list[PortRow], records: list[Record], stored: list[StoredDescriptor]) -> None:
    found = plan(rows, records, stored)
    assert {each.record.port for each in found.adopt} | {each.port for each in found.stale_records} == {
        each.port for each in records}
    used = [each.descriptor for each in found.adopt if each.descriptor is not None]
    used += [each.descriptor for each in found.stray_descriptors]
    assert sorted(used) == sorted(each.descriptor for each in stored)


def test_a_record_survives_its_process(tmp_path: Path) -> None:
    kept = Record(15, 9, offer(device("1-1.4", 3, Speed.SUPER), node="pi", certificate="sha256:77"),
                  "kitchen", 1795389611814680)
    Records(tmp_path / "imports").write(kept)
    assert Records(tmp_path / "imports").read() == (kept,)
    [path] = (tmp_path / "imports").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    Records(tmp_path / "imports").drop(15)
    assert Records(tmp_path / "imports").read() == ()


@pytest.mark.parametrize("change", [
    {"version": 2}, {"port": 16}, {"port": "15"}, {"descriptor": True}, {"request": "00"}, {"request": "zz"},
    {"request": 7}, {"since": "then"}, {"address": "here"}])
def test_a_record_that_makes_no_sense_is_removed(tmp_path: Path, change: dict[str, object]) -> None:
    records = Records(tmp_path)
    records.write(record(15))
    path = tmp_path / "15.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert records.read() == ()
    assert os.listdir(tmp_path) == []
