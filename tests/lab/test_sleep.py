"""Suspend to memory on either side: what is connected ends cleanly before, and is back by itself after."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from . import product
from .devices import Keyboard, Stick
from .guest import Guest
from .pair import Pair
from .product import AGENT, SLOW, USBIPA

NEVER = "10m"           # a link that does not end cleanly is there for as long as any test


def suspend(guest: Guest) -> None:
    """Asks logind for it."""
    guest.start_job(["busctl", "--timeout=60", "call", "org.freedesktop.login1", "/org/freedesktop/login1",
                     "org.freedesktop.login1.Manager", "Suspend", "b", "false"])


@contextmanager
def asleep(guest: Guest) -> Iterator[None]:
    """Awaits that it sleeps, and wakes it afterwards, whatever happens: it has evidence to give."""
    guest.qmp.wait_event("SUSPEND", SLOW)
    try:
        yield
    finally:
        guest.qmp.command("system_wakeup")
        guest.qmp.wait_event("WAKEUP", SLOW)


def test_sleep(pair: Pair) -> None:
    node, host = pair.node, pair.host
    product.configure(host, USBIPA, product.usbipa_yaml() + f"dead_after: {NEVER}\n")
    product.configure(node, AGENT, product.agent_yaml(
        "{connect: other}",
        more_hosts=f"  other: {{address: host, transport: {product.TRANSPORT}, dead_after: {NEVER}}}\n"))
    stick, keyboard = Stick(), Keyboard()
    busids = [node.plug(stick, 1), node.plug(keyboard, 2)]
    await_connected(pair, stick, busids)

    suspend(node)
    with asleep(node):
        product.until_host_clean(host)
    await_connected(pair, stick, busids)

    # There is no polkit, without which logind waits for nobody but root; so something else has to.
    host.run(["systemctl", "kill", "-s", "STOP", USBIPA])
    suspend(host)
    host.until("pgrep -f system-slee[p]/usbipa")     # brackets: not the shell that looks for it
    host.run(["systemctl", "kill", "-s", "CONT", USBIPA])
    with asleep(host):
        for busid in busids:
            node.until(f"! {product.property_of(busid, 'State')} | grep -q '\"connected\"'", SLOW)
    await_connected(pair, stick, busids)
    for device in (stick, keyboard):
        node.unplug(device)
    product.until_clean(pair)


def await_connected(pair: Pair, stick: Stick, busids: list[str]) -> None:
    for busid in busids:
        product.until_state(pair.node, busid, "connected")
    product.until_attached(pair.host, len(busids))
    pair.host.sh("echo 3 > /proc/sys/vm/drop_caches")
    assert pair.host.disk_hash(stick) == stick.sha256
