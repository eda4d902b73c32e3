"""What is decided otherwise while somebody is being admitted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

import pytest

from tests.unit.application_side.fake_vhci import offer
from tests.unit.application_side.side import PATIENCE, Side
from usbip_agent.application_side import keeper
from usbip_agent.application_side.adoption import Adoption
from usbip_agent.application_side.records import Record
from usbip_agent.device import Speed
from usbip_agent.errors import RefusedFault
from usbip_agent.kernel.vhci import Hub, PortRow, PortState
from usbip_agent.policy.usbipa import AcceptPolicy

CERTIFICATE = "sha256:77"
OFFER = offer(node="pi", certificate=CERTIFICATE)


async def fall_asleep(side: Side) -> None:
    await side.usbipa.fall_asleep()


async def reload(side: Side) -> None:
    side.policy = AcceptPolicy()
    side.usbipa.configure()
    await side.usbipa.end_rejected()


async def revoke(side: Side) -> None:
    side.guests.fingerprints.clear()
    await side.usbipa.end_imports_of("pi")


@pytest.mark.parametrize("change, why", [
    (fall_asleep, "about to sleep"), (reload, "no rule matches"), (revoke, "no longer that of an enrolled")])
async def test_what_waited_over_a_change_is_decided_anew(
        side: Side, change: Callable[[Side], Coroutine[None, None, None]], why: str) -> None:
    side.guests.fingerprints[CERTIFICATE] = "pi"
    old = await side.usbipa.admit(OFFER)
    waiting = asyncio.create_task(side.usbipa.admit(OFFER))
    changing = asyncio.create_task(change(side))
    await asyncio.sleep(0)
    assert not waiting.done()
    old.abandon()
    with pytest.raises(RefusedFault, match=why):
        await waiting
    await changing
    assert not list(side.keeper)


async def test_of_two_that_wait_for_one_old_import_the_later_replaces_the_earlier(side: Side) -> None:
    old = await side.usbipa.admit(offer())
    earlier, later = (asyncio.create_task(side.usbipa.admit(offer())) for _ in range(2))
    await asyncio.sleep(0)
    old.abandon()
    first = await earlier
    assert len(list(side.keeper)) == 1 and not later.done()
    first.abandon()
    last = await later
    assert side.keeper.find(offer()).port == last.port, "an UNEXPORT knows which one is meant"
    last.abandon()


async def test_one_that_is_given_up_on_is_waited_for_once(
        side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "REPLACE_DEADLINE", 0.02)
    stuck = await side.usbipa.admit(offer())
    async with asyncio.timeout(PATIENCE):
        new = await side.usbipa.admit(offer())
    assert (stuck.port, new.port) == (0, 1)
    stuck.abandon()
    new.abandon()
    assert not side.keeper._given_up


async def test_a_node_that_was_revoked_after_it_came_gets_nothing(side: Side) -> None:
    with pytest.raises(RefusedFault, match="no longer that of an enrolled node"):
        await side.usbipa.admit(OFFER)
    with pytest.raises(RefusedFault, match="no longer that of an enrolled node"):
        await side.usbipa.unexport(OFFER)
    side.guests.fingerprints[CERTIFICATE] = "another"
    with pytest.raises(RefusedFault):
        await side.usbipa.admit(OFFER)


async def test_an_import_of_a_node_that_was_revoked_before_a_crash_is_not_kept(
        side: Side, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    row = PortRow(0, Hub.HIGH, PortState.USED, Speed.HIGH, OFFER.devid, 9, "3-1")
    side.keeper.adopt(Adoption(Record(0, 9, OFFER, "r", 1), row, None))
    await side.usbipa.end_rejected()
    assert not list(side.keeper)
    assert "its node was revoked" in caplog.text


async def test_who_is_known_by_a_ca_needs_no_enrolment(side: Side) -> None:
    (await side.usbipa.admit(offer(node="pi"))).abandon()
