"""Calls that the kernel may hold for long, kept off the event loop.

A write to ``usbip_sockfd`` or ``bind`` returns when the kernel is done with it: usually at once, but a device
that hangs on the bus can hold it for half a minute, and a broken one beside it for longer, as the kernel
locks their hub while it tries to enumerate that. Each call gets a thread of its own: a pool would let
a few stuck devices starve all others. A thread that is stuck in the kernel cannot be ended; it is a daemon
thread, so that it does not hold up the end of the process either. But what it is about to do happens: so
nothing else is begun with its device before (``in_turn``).
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import TypeVar

from usbip_agent.errors import DeadlineFault, Fault

Result = TypeVar("Result")

KERNEL_DEADLINE = 40.0
"""Seconds. A device that does not answer costs the USB core 5 s a control transfer, and a few retries."""

LOAD_DEADLINE = 300.0
"""Seconds. A configuration of 10 MB takes eight on a machine that is neither slow nor busy."""

log = logging.getLogger(__name__)


async def in_thread(
    what: str, call: Callable[[], Result], *, deadline: float | None = KERNEL_DEADLINE,
) -> Result:
    """What *call* returns or raises, run in a thread of its own. Fault when there can be no more threads.

    DeadlineFault, saying *what* took longer, after *deadline* seconds. When the awaiting task is cancelled
    the thread goes on; its result is dropped.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[Result] = loop.create_future()

    def settle(value: Result | None, error: BaseException | None) -> None:
        if outcome.done():
            return
        if error is not None:
            outcome.set_exception(error)
        else:
            outcome.set_result(value)  # type: ignore[arg-type]

    def run() -> None:
        value: Result | None = None
        error: BaseException | None = None
        try:
            value = call()
        except BaseException as caught:  # handed to whoever awaits
            error = caught
        try:
            loop.call_soon_threadsafe(settle, value, error)
        except RuntimeError:
            pass  # the loop ended while the kernel kept us

    try:
        threading.Thread(target=run, name=what[:15], daemon=True).start()
    except RuntimeError as error:
        raise Fault(f"{what}: {error}") from None
    try:
        # Not asyncio.timeout: a TimeoutError may be the call's own.
        done, _ = await asyncio.wait({outcome}, timeout=deadline)
        if not done:
            raise DeadlineFault(f"{what}: the kernel has not answered for {deadline:.0f} s")
        return outcome.result()
    finally:
        outcome.cancel()  # what comes too late is nobody's


@dataclass(eq=False, slots=True)
class Turn:
    """A piece of work with a device."""

    what: str
    since: str = field(default_factory=lambda: time.strftime("%H:%M:%S"))
    given_up: bool = False
    """Nobody waits for it any more: what it has taken it puts back, and takes nothing else."""
    ended: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def __str__(self) -> str:
        return f"{self.what}: the kernel has not answered since {self.since}"

    def check(self) -> None:
        """DeadlineFault when it was given up."""
        if self.given_up:
            raise DeadlineFault("nothing more was done")


_turns: dict[str, Turn] = {}
"""Whose turn it is, for each device."""


async def in_turn(
    what: str, device: str, work: Callable[[Turn], Coroutine[object, object, Result]], *,
    deadline: float = KERNEL_DEADLINE, patient: bool = False,
) -> Result:
    """What *work* returns or raises, begun when all that was begun before for *device* has ended.

    DeadlineFault after *deadline* seconds. The work, which needs no deadlines then, goes on; what comes next
    for the device fails at once until it has ended, but for what is *patient*. So of all that may hang in the
    kernel there is one for each device, and what was given up meets nothing unforeseen when it goes on.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + deadline
    while (before := _turns.get(device)) is not None:
        left = end - loop.time()
        if left <= 0 or before.given_up and not patient:
            raise DeadlineFault(str(before))
        await asyncio.wait({before.ended}, timeout=left)
    turn = _turns[device] = Turn(f"{what} {device}")
    task = asyncio.ensure_future(work(turn))
    task.add_done_callback(lambda task: _end(device, turn, task))
    try:
        done, _ = await asyncio.wait({task}, timeout=end - loop.time())
        if not done:
            raise DeadlineFault(str(turn))
        return task.result()
    finally:
        turn.given_up = True


def _end(device: str, turn: Turn, task: asyncio.Task[Result]) -> None:
    del _turns[device]
    turn.ended.set_result(None)
    error = None if task.cancelled() else task.exception()
    if turn.given_up:
        log.warning("%s, begun at %s and given up meanwhile, has ended%s", turn.what, turn.since,
                    f": {error}" if error is not None else "")


async def uninterrupted(work: Coroutine[object, object, Result]) -> Result:
    """What *work* returns; a cancellation waits until it is done: the kernel is left in a known state.

    *work* must have a deadline of its own, as everything made of ``in_thread`` and ``in_turn`` has.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # retrieved: whoever cancelled does not want it
        raise
