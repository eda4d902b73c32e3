"""Calls that the kernel may hold for long, kept off the event loop.

A write to ``usbip_sockfd`` or ``bind`` returns when the kernel is done with it: usually at once, but a device
that hangs on the bus can hold it for half a minute. Each call gets a thread of its own: a pool would let
a few stuck devices starve all others. A thread that is stuck in the kernel cannot be ended; it is a daemon
thread, so that it does not hold up the end of the process either.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import TypeVar

from usbip_agent.errors import DeadlineFault

Result = TypeVar("Result")

KERNEL_DEADLINE = 40.0
"""Seconds. A device that does not answer costs the USB core 5 s a control transfer, and a few retries."""

LOAD_DEADLINE = 300.0
"""Seconds. A configuration of 10 MB takes eight on a machine that is neither slow nor busy."""


async def in_thread(
    what: str, call: Callable[[], Result], *, deadline: float = KERNEL_DEADLINE,
) -> Result:
    """What *call* returns or raises, run in a thread of its own.

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

    threading.Thread(target=run, name=what[:15], daemon=True).start()
    try:
        # Not asyncio.timeout: a TimeoutError may be the call's own.
        done, _ = await asyncio.wait({outcome}, timeout=deadline)
        if not done:
            raise DeadlineFault(f"{what}: the kernel has not answered for {deadline:.0f} s")
        return outcome.result()
    finally:
        outcome.cancel()  # what comes too late is nobody's


async def uninterrupted(work: Coroutine[object, object, Result]) -> Result:
    """What *work* returns; a cancellation waits until it is done: the kernel is left in a known state.

    *work* must have a deadline of its own, as everything made of ``in_thread`` has.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # retrieved: whoever cancelled does not want it
        raise
