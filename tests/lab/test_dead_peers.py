"""Peers that die without a word: noticed in time on either side, and no obstacle when they are back."""
from __future__ import annotations

from . import product
from .devices import Stick
from .guest import Guest
from .pair import Pair
from .product import AGENT, SLOW, USBIPA

DEAD_AFTER = 4
SLACK = 4               # seconds; the kernel resets the device before anybody is told

NO_RESETS = b"""table inet lab {
    chain input {
        type filter hook input priority 0;
        tcp flags & rst == rst drop
    }
}
"""


def configure(pair: Pair, node: str, host: str) -> None:
    """Each side with its own idea of when the other is dead."""
    product.configure(pair.host, USBIPA, product.usbipa_yaml() + f"dead_after: {host}\n")
    product.configure(pair.node, AGENT, product.agent_yaml(
        "{match: {vendor: 46f4}, connect: other}",
        more_hosts=f"  other: {{address: host, transport: {product.TRANSPORT}, dead_after: {node}}}\n"))


def connected(pair: Pair, busid: str) -> None:
    product.until_state(pair.node, busid, "connected")
    product.until_attached(pair.host, 1)


def now(guest: Guest) -> float:
    return float(guest.sh("date +%s.%N"))


def delay(guest: Guest, busid: str, state: str, since: float) -> float:
    """How long after *since* the journal first had the device in this state, in seconds."""
    entries = product.journal(guest, f"USBIP_BUSID={busid}", f"USBIP_STATE={state}")
    times = (int(entry["__REALTIME_TIMESTAMP"]) / 1e6 for entry in entries)
    return min(at for at in times if at > since) - since


def test_silence_is_noticed(pair: Pair) -> None:
    node, host = pair.node, pair.host
    configure(pair, node=f"{DEAD_AFTER}s", host=f"{DEAD_AFTER}s")
    stick = Stick()
    busid = node.plug(stick, 1)
    connected(pair, busid)
    assert host.disk_hash(stick) == stick.sha256

    # The host, while the link is idle.
    since = now(node)
    host.freeze()
    product.until_reason(node, busid, "link to other ended|other: ")
    assert delay(node, busid, "waiting", since) <= DEAD_AFTER + SLACK
    host.thaw()
    connected(pair, busid)
    assert len(product.imports(host)) == 1

    # The node, while the host reads.
    reader = host.start_job("echo 3 > /proc/sys/vm/drop_caches; "
                            f"while dd if={stick.disk} of=/dev/null bs=64k iflag=direct; do echo again; done")
    reader.wait_for("again", SLOW)
    since = now(host)
    node.freeze()
    host.until(f"! {product.TAKEN_PORTS}", SLOW)
    assert delay(host, busid, "detached", since) <= DEAD_AFTER + SLACK
    reader.wait(SLOW)           # not stuck in the kernel
    node.thaw()
    connected(pair, busid)
    assert host.disk_hash(stick) == stick.sha256
    node.unplug(stick)
    product.until_clean(pair)


def test_a_node_without_power(pair: Pair) -> None:
    """It is back before the host knows that it was gone: the import of before makes way."""
    node, host = pair.node, pair.host
    configure(pair, node="10m", host="10m")
    stick = Stick()
    busid = node.plug(stick, 1)
    connected(pair, busid)
    [before] = product.imports(host).values()
    # Else what the host sends is answered by a reset as soon as the node has a network: that ends the link.
    host.run(["nft", "-f", "-"], stdin=NO_RESETS)
    node.sh("sync")         # the configuration, which is not what is to be lost
    node.reboot(hard=True)
    connected(pair, busid)
    [after] = product.imports(host).values()
    assert after["since"] > before["since"]
    [ended] = product.journal(host, f"USBIP_BUSID={busid}", "USBIP_STATE=detached")
    assert "exported again by" in ended["USBIP_REASON"]
    assert product.journal(node, f"USBIP_BUSID={busid}", "USBIP_STATE=waiting") == []
    assert host.disk_hash(stick) == stick.sha256
    node.unplug(stick)
    product.until_clean(pair)
