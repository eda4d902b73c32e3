"""The table of imports: no port twice, nobody ends what is not theirs."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test)

from tests.unit.application_side.fake_vhci import device, offer
from usbip_agent.application_side.imports import Imports
from usbip_agent.device import Speed
from usbip_agent.errors import NoFreePortFault, RefusedFault, UnknownDeviceFault
from usbip_agent.kernel.vhci import Hub, PortRow, PortState
from usbip_agent.report import ImportState


def rows(*states: PortState, hub: Hub = Hub.HIGH, first: int = 0) -> list[PortRow]:
    return [PortRow(port, hub, state, Speed.UNKNOWN, 0, 0, "") for port, state in enumerate(states, first)]


FREE, USED, PENDING = PortState.FREE, PortState.USED, PortState.NOT_ASSIGNED
BOTH_HUBS = rows(FREE, FREE) + rows(FREE, FREE, hub=Hub.SUPER, first=2)


def test_a_port_is_on_the_hub_of_the_speed() -> None:
    imports = Imports()
    assert imports.reserve(offer(device("1-1", speed=Speed.SUPER)), "r", BOTH_HUBS, 1).port == 2
    assert imports.reserve(offer(device("1-2", speed=Speed.FULL)), "r", BOTH_HUBS, 1).port == 0


def test_what_the_kernel_uses_is_never_chosen() -> None:
    assert Imports().reserve(offer(), "r", rows(USED, PENDING, PortState.ERROR, FREE), 1).port == 3


def test_a_full_hub_says_so() -> None:
    with pytest.raises(NoFreePortFault, match="all SuperSpeed ports"):
        Imports().reserve(offer(device(speed=Speed.SUPER)), "r", rows(FREE), 1)


def test_a_taken_port_is_not_tried_again() -> None:
    imports = Imports()
    table = rows(FREE, FREE, FREE)
    assert imports.reserve(offer(), "r", table, 1).port == 0
    assert imports.move(0, table).port == 1
    moved = imports.move(1, table)
    assert moved.port == 2 and moved.refused_ports == {0, 1}
    with pytest.raises(NoFreePortFault):
        imports.move(2, table)
    assert [each.port for each in imports] == [2]


def test_a_report_tells_what_the_contract_lists() -> None:
    entry = Imports().reserve(offer(node="pi"), "kitchen", rows(FREE), 17)
    report = entry.report
    assert (report.port, report.hub, report.node, report.peer) == (0, "hs", "pi", "10.9.0.7:40312")
    assert (report.bus_id, report.vendor, report.product, report.speed) == ("1-1", "10c4", "ea60", "high")
    assert (report.rule, report.transport, report.state) == ("kitchen", "plain", "attaching")
    assert report.since == 17


def test_a_node_replaces_its_own_import_from_anywhere() -> None:
    imports = Imports()
    old = imports.reserve(offer(node="pi"), "r", BOTH_HUBS, 1)
    again = offer(device(number=9), address="192.0.2.1", node="pi")
    assert imports.replaced_by(again) == (old,)


@pytest.mark.parametrize("stranger", [
    offer(node="other"), offer(), offer(device("1-2"), node="pi")])
def test_nobody_replaces_a_node_s_import_but_the_node(stranger: object) -> None:
    imports = Imports()
    imports.reserve(offer(node="pi"), "r", BOTH_HUBS, 1)
    assert imports.replaced_by(stranger) == ()  # type: ignore[arg-type]


@pytest.mark.parametrize("neighbour", [
    offer(device(number=3)), offer(device(vendor="0403")), offer(device("1-2")), offer(address="10.9.0.8"),
    offer(node="pi")])
def test_behind_one_address_two_nodes_do_not_end_each_other_s_imports(neighbour: object) -> None:
    imports = Imports()
    imports.reserve(offer(), "r", BOTH_HUBS, 1)
    assert imports.replaced_by(neighbour) == ()  # type: ignore[arg-type]
    with pytest.raises(RefusedFault, match="is not imported from there"):
        imports.to_be_ended_by(neighbour)  # type: ignore[arg-type]


def test_a_plain_peer_that_exports_again_replaces_its_old_import() -> None:
    imports = Imports()
    old = imports.reserve(offer(), "r", BOTH_HUBS, 1)
    assert imports.replaced_by(offer()) == (old,)
    assert imports.to_be_ended_by(offer()) is old


def test_an_unexport_means_what_is_not_being_detached() -> None:
    """The kernel did not let go of the old one in time, so the new one has another port."""
    imports = Imports()
    old = imports.reserve(offer(), "r", BOTH_HUBS, 1)
    new = imports.reserve(offer(), "r", BOTH_HUBS, 1)
    imports.put(dataclasses.replace(old, state=ImportState.DETACHING))
    assert imports.to_be_ended_by(offer()) is new


def test_an_ambiguous_unexport_is_refused() -> None:
    imports = Imports()
    imports.reserve(offer(), "r", BOTH_HUBS, 1)
    imports.reserve(offer(), "r", BOTH_HUBS, 1)
    with pytest.raises(RefusedFault, match=r"more than once \(ports 0, 1\)"):
        imports.to_be_ended_by(offer())


def test_a_port_of_somebody_else_is_none_of_ours() -> None:
    with pytest.raises(UnknownDeviceFault, match="port 3 carries no import"):
        Imports().at(3)


PORTS = 6


class Ports(RuleBasedStateMachine):
    """Whatever is reserved, moved, taken by others and released: a port has one owner."""

    def __init__(self) -> None:
        super().__init__()
        self.imports = Imports()
        self.others: set[int] = set()
        self.count = 0

    def table(self) -> list[PortRow]:
        return rows(*(USED if port in self.others else FREE for port in range(PORTS)))

    @rule()
    def reserve(self) -> None:
        self.count += 1
        free = PORTS - len(self.others | {each.port for each in self.imports})
        try:
            entry = self.imports.reserve(offer(device(number=self.count)), "r", self.table(), 1)
        except NoFreePortFault:
            assert not free
        else:
            assert free and entry.port not in self.others

    @precondition(lambda self: bool(len(self.imports)))
    @rule(data=st.data())
    def lose_the_race(self, data: st.DataObject) -> None:
        port = data.draw(st.sampled_from(sorted(each.port for each in self.imports)))
        before = self.imports.at(port)
        self.others.add(port)
        try:
            moved = self.imports.move(port, self.table())
        except NoFreePortFault:
            assert self.imports.at(port) is before
            self.imports.release(port)
        else:
            assert moved.port != port and port not in self.imports
            assert moved.offer == before.offer

    @precondition(lambda self: bool(len(self.imports)))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        port = data.draw(st.sampled_from(sorted(each.port for each in self.imports)))
        self.imports.release(port)
        assert port not in self.imports

    @rule(port=st.integers(0, PORTS - 1))
    def others_come_and_go(self, port: int) -> None:
        if port not in self.imports:
            self.others ^= {port}

    @invariant()
    def every_port_has_one_owner(self) -> None:
        ports = [each.port for each in self.imports]
        assert len(ports) == len(set(ports)) == len(self.imports)
        assert not set(ports) & self.others


def test_whatever_happens_a_port_has_one_owner() -> None:
    run_state_machine_as_test(Ports, settings=settings(  # type: ignore[no-untyped-call]
        max_examples=60, stateful_step_count=30, deadline=None))


@given(st.sampled_from(ImportState))
def test_what_is_put_is_what_is_there(state: ImportState) -> None:
    from dataclasses import replace

    imports = Imports()
    changed = replace(imports.reserve(offer(), "r", rows(FREE), 1), state=state)
    imports.put(changed)
    assert imports.at(0) is changed
