"""SRV records: their order, how long they are kept, and what becomes of their absence."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, strategies

from usbip_agent.errors import UnreachableFault
from usbip_agent.transport import services
from usbip_agent.transport.services import ServiceRecord, in_order, service_records

NAME = "_usbipa._tcp.example.net"

RECORDS = strategies.frozensets(strategies.builds(
    ServiceRecord, strategies.integers(0, 3), strategies.integers(0, 5), strategies.just(3240),
    strategies.sampled_from("abcdef")), max_size=12)


@given(RECORDS, strategies.lists(strategies.floats(0, 1, exclude_max=True), min_size=12, max_size=12))
def test_every_record_once_and_by_priority(records: frozenset[ServiceRecord], chances: list[float]) -> None:
    ordered = in_order(records, iter(chances).__next__)
    assert sorted(ordered) == sorted(records)
    assert [each.priority for each in ordered] == sorted(each.priority for each in records)


def test_weights_are_chances() -> None:
    targets = (0, "spare"), (10, "small"), (30, "big")
    records = [ServiceRecord(1, weight, 1, name) for weight, name in targets]
    chance = random.Random(4).random
    first = Counter(in_order(records, chance)[0].target for _ in range(4000))
    assert 2 * first["small"] < first["big"] < 4 * first["small"]
    assert 0 < first["spare"] < 300


@pytest.fixture
def says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, int], None]]:
    """What the process that asks says, and its exit status."""
    monkeypatch.setattr(services, "QUESTION", tmp_path / "question.py")

    def set_words(words: str, status: int = 0) -> None:
        (tmp_path / "question.py").write_text(
            f"import sys\nassert sys.argv[1:] == [{NAME!r}]\nprint({words!r})\nsys.exit({status})\n")

    services._answers.clear()
    yield set_words
    services._answers.clear()


async def test_an_answer_is_kept_for_its_time_to_live(says: Callable[..., None],
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    says("30.5\n10 5 3240 a.example.net.\n20 0 3241 b.example.net.")
    first = await service_records(NAME)
    assert first == {ServiceRecord(10, 5, 3240, "a.example.net"), ServiceRecord(20, 0, 3241, "b.example.net")}
    says("3600\n1 0 3240 c.example.net.")
    now += 30
    assert await service_records(NAME) == first
    now += 1
    assert await service_records(NAME) == {ServiceRecord(1, 0, 3240, "c.example.net")}
    says("0\n1 0 3240 d.example.net.")
    now += services.LONGEST_KEPT
    assert await service_records(NAME) == {ServiceRecord(1, 0, 3240, "d.example.net")}


@pytest.mark.parametrize("words, status, why", [
    ("there is no such name", 1, f"cannot resolve {NAME}: there is no such name"),
    ("", 1, "the question ended with status 1"), ("", 3, "the question ended with status 3"),
    ("60\n0 0 0 .", 0, "DNS says that nobody offers this service"),
    ("\x1b]0;x", 1, r"\\x1b"),
])
async def test_no_answer(says: Callable[..., None], words: str, status: int, why: str) -> None:
    says(words, status)
    for _ in range(2):
        with pytest.raises(UnreachableFault, match=why):
            await service_records(NAME)


async def test_a_process_that_hangs_is_ended(says: Callable[..., None], tmp_path: Path,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "DEADLINE", 0.2)
    (tmp_path / "question.py").write_text("import signal\nsignal.pause()\n")
    with pytest.raises(UnreachableFault, match=f"cannot resolve {NAME}: no answer"):
        await service_records(NAME)
    async with asyncio.timeout(10):
        while services._lookups._under_way:
            await asyncio.sleep(0)
    monkeypatch.setattr(services, "DEADLINE", 10.0)
    says("0\n1 0 3240 d.example.net.")
    assert await service_records(NAME)
