"""The agent with several devices: what happens reaches those whom it concerns."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.device_side.samples import BACKUP, LAB, STICK
from tests.unit.device_side.world import World, away, policy, until
from usbip_agent.bus.operations import ConnectOptions, DisconnectOptions
from usbip_agent.device import Kind
from usbip_agent.device_side.agent import CLOCKS
from usbip_agent.device_side.flapping import TOLERATED
from usbip_agent.errors import BlockedFault, RefusedFault
from usbip_agent.policy.agent import AgentPolicy, ConnectRule
from usbip_agent.policy.match import Match

Begin = Callable[[AgentPolicy], World]


@pytest.fixture
async def begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Begin]:
    worlds: list[World] = []

    def make(applied: AgentPolicy) -> World:
        worlds.append(World(tmp_path, applied))
        return worlds[-1]

    async def nobody_uses_it(*_arguments: object) -> None: ...

    monkeypatch.setattr("usbip_agent.device_side.guard.Guard.examine", nobody_uses_it)
    yield make
    for world in worlds:
        await world.close()


async def test_a_network_that_changes_helps_all_and_a_name_those_who_wait_for_it(begin: Begin) -> None:
    world = begin(policy(LAB))
    world.hosts.away[LAB.name] = away(LAB)
    world.agent.plugged(STICK)
    await world.until("waiting")
    assert world.hosts.dialled == ["lab"]
    world.agent.try_now(BACKUP)
    assert world.reports["1-1"].state == "waiting"
    for helps in (LAB, None):
        world.agent.try_now(helps)
        assert world.reports["1-1"].state == "connecting", "at once, and not when its timer is due"
        await world.until("waiting")
    world.hosts.away.clear()
    world.agent.try_now()
    await world.until("connected")
    world.agent.try_now()
    assert world.reports["1-1"].state == "connected"


async def test_the_first_of_the_list_that_takes_it(begin: Begin) -> None:
    world = begin(policy(LAB, BACKUP))
    world.agent.plugged(STICK)
    assert (await world.until("connected")).host == "lab" and world.hosts.dialled == ["lab"]
    world.hosts.away[LAB.name] = away(LAB)
    world.agent.plugged(replace(STICK, bus_id="1-2", device_number=3))
    assert (await world.until("connected", "1-2")).host == "backup"
    assert world.hosts.dialled == ["lab", "lab", "backup"]


async def test_back_to_the_preferred_host(begin: Begin) -> None:
    world = begin(policy(LAB, BACKUP, failback=10.0))
    world.hosts.away[LAB.name] = away(LAB)
    world.agent.plugged(STICK)
    assert (await world.until("connected")).host == "backup"
    world.hosts.away.clear()
    world.agent.fail_back("1-1")
    await until(lambda: (world.reports["1-1"].state, world.reports["1-1"].host) == ("connected", "lab"))
    assert world.kernel.done.count("give back") == 1


async def test_asleep_nothing_is_connected_and_awake_everything(begin: Begin) -> None:
    world = begin(policy(LAB))
    world.agent.plugged(STICK)
    await world.until("connected")
    await world.agent.fall_asleep()
    assert world.kernel.done[-1] == "give back" and world.kernel.claimed == set()
    world.agent.try_now()
    assert world.reports["1-1"].state == "waiting"
    world.agent.wake_up()
    await world.until("connected")


async def test_what_is_blocked_is_examined_when_usage_changes(
        begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    async def mounted(*_arguments: object) -> None:
        raise BlockedFault("/dev/sda1 is mounted on /srv")

    async def unmounted(*_arguments: object) -> None: ...

    world = begin(policy(LAB))
    monkeypatch.setattr("usbip_agent.device_side.guard.Guard.examine", mounted)
    world.agent.plugged(STICK)
    assert (await world.until("blocked")).reason == "/dev/sda1 is mounted on /srv"
    assert world.hosts.dialled == [] and world.kernel.done == []
    monkeypatch.setattr("usbip_agent.device_side.guard.Guard.examine", unmounted)
    world.agent.usage_changed()
    assert world.reports["1-1"].state == "connecting"
    await world.until("connected")


async def test_a_device_that_comes_and_goes_is_left_alone_and_says_so(begin: Begin) -> None:
    world = begin(policy(LAB))
    for number in range(TOLERATED):
        world.agent.plugged(replace(STICK, device_number=number + 2))
        await world.until("connected")
        world.agent.unplugged("1-1")
        await until(lambda: not world.reports)
    before = len(world.hosts.dialled)
    world.agent.plugged(STICK)
    report = world.reports["1-1"]
    assert report.state == "waiting" and report.next_attempt > report.since
    assert report.reason == f"plugged in {TOLERATED + 1} times within a minute: left alone for 2 s"
    assert len(world.hosts.dialled) == before
    world.agent.plugged(replace(STICK, bus_id="1-2", device_number=99))
    await world.until("connected", "1-2")


async def test_what_comes_back_with_other_ids_is_decided_anew(begin: Begin) -> None:
    world = begin(policy(LAB))
    world.agent.plugged(STICK)
    await world.until("connected")
    decided: list[str] = []
    decide = AgentPolicy.decide

    def note(self: AgentPolicy, device: object) -> object:
        decided.append(getattr(device, "product"))
        return decide(self, device)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AgentPolicy, "decide", note)
        world.agent.plugged(STICK)
        assert decided == []
        world.agent.plugged(replace(STICK, device_number=3, product="ea61"))
    assert decided == ["ea61"]
    await until(lambda: (world.reports["1-1"].product, world.reports["1-1"].state) == ("ea61", "connected"))
    assert "forget" in world.kernel.done


async def test_what_udev_forgot_to_say_is_found_by_looking(begin: Begin) -> None:
    world = begin(policy())
    others = [replace(STICK, bus_id=f"1-{number}", device_number=number) for number in (2, 3, 4)]
    world.agent.present(others)
    assert sorted(world.reports) == ["1-2", "1-3", "1-4"]
    world.agent.present([STICK, others[0]], {"1-3"})
    await until(lambda: sorted(world.reports) == ["1-1", "1-2", "1-3"])


async def test_udev_is_told_before_a_reload_takes_effect(begin: Begin) -> None:
    world = begin(policy())
    world.agent.plugged(STICK)
    await world.until("ignored")
    world.policy = policy(LAB)
    await world.agent.reload()
    assert world.claims == [(world.policy, frozenset(), {"1-1": "ignored"})]
    await world.until("connected")


async def test_udev_is_told_before_a_device_is_given_back(begin: Begin) -> None:
    """What its local driver makes of it is an ordinary device, for automounters too."""
    world = begin(policy(LAB))
    world.agent.plugged(STICK)
    await world.until("connected")
    await world.agent.disconnect("1-1", DisconnectOptions())
    assert world.claims == [(world.policy, frozenset({"1-1"}), {"1-1": "connected"})]
    assert world.reports["1-1"].state == "held"


async def test_a_reload_tries_at_once_what_waits(begin: Begin) -> None:
    world = begin(policy(LAB))
    world.hosts.away[LAB.name] = away(LAB)
    world.agent.plugged(STICK)
    await world.until("waiting")
    world.hosts.away.clear()
    await world.agent.reload()
    assert world.reports["1-1"].state == "connecting"
    await world.until("connected")


async def test_what_was_asked_by_hand_follows_the_configuration(begin: Begin) -> None:
    world = begin(policy())
    world.agent.plugged(STICK)
    await world.agent.connect("1-1", "lab", ConnectOptions(port=4000))
    moved = replace(LAB, address="10.0.0.9")
    world.policy = replace(policy(), hosts=(moved, BACKUP))
    await world.agent.reload()
    await until(lambda: world.hosts.dialled == ["lab", "lab", "lab"])  # connected, un-exported, connected
    await world.until("connected")
    [export] = world.agent.exports()
    assert export.by_hand == replace(moved, port=4000)
    world.policy = replace(policy(), hosts=(BACKUP,))
    await world.agent.reload()
    assert export.by_hand == replace(moved, port=4000), "it stands nowhere else any more"


async def test_what_was_asked_by_hand_outlives_a_restart(begin: Begin) -> None:
    """Also while its host is away and the device is usable locally; until a replug."""
    world = begin(policy())
    world.agent.plugged(STICK)
    await world.agent.connect("1-1", "lab", ConnectOptions())
    world.hosts.away["lab"] = RefusedFault("not now")
    for peer in world.hosts.peers:
        peer.close()
    await world.until("waiting")
    world.agent.try_now()
    await until(lambda: "give back" in world.kernel.done)
    for keeper in world.agent._keepers.values():
        keeper.abandon()

    later = begin(policy())
    later.agent.plugged(STICK)
    await later.until("connected")
    assert later.hosts.dialled == ["lab"]
    later.agent.unplugged("1-1")
    await until(lambda: not later.reports)
    later.agent.plugged(STICK)
    await later.until("ignored")

    last = begin(policy())
    last.agent.plugged(STICK)
    await last.until("ignored")


async def test_another_gadget_on_the_same_vudc_is_another_device(begin: Begin) -> None:
    """Exchanged between two looks: a vUDC has no number that would tell."""
    rule = ConnectRule(name="gadget", match=Match.of({"product": "0001"}), hosts=(LAB,))
    world = begin(replace(policy(), rules=(rule,)))
    gadget = replace(STICK, kind=Kind.VUDC, bus_id="usbip-vudc.0", bus_number=0, device_number=0)
    world.agent.plugged(replace(gadget, product="0001"))
    await world.until("connected", gadget.bus_id)
    world.agent.plugged(gadget)
    await world.until("ignored", gadget.bus_id)


def test_a_clock_that_is_set_changes_no_delay() -> None:
    from_the_start = time.clock_gettime(time.CLOCK_MONOTONIC)
    assert 0 <= CLOCKS.monotonic() - from_the_start < 60
