"""What all recoveries are measured on: the product, with a short ``dead_after``, and sticks."""

from __future__ import annotations

from tests.bench.contenders import Product
from tests.bench.views import Views, now
from tests.lab import product
from tests.lab.devices import Stick
from tests.lab.pair import Pair
from tests.lab.product import AGENT, SLOW, STUB, TAKEN_PORTS, USBIPA

DEAD_AFTER = 3
"""Seconds; the shortest that may be configured."""


class Impatient(Product):
    """The product, which takes a silent peer for dead soon."""

    def start(self, pair: Pair) -> None:
        super().start(pair)
        said = f"dead_after: {DEAD_AFTER}s"
        product.configure(pair.host, USBIPA, f"{said}\n{product.usbipa_yaml()}")
        product.configure(pair.node, AGENT, product.agent_yaml(product.STICKS).replace(
            f"transport: {product.TRANSPORT}", f"transport: {product.TRANSPORT}, {said}"))


class Ground:
    """Both guests, and what clients of both daemons see. The product runs when this is made."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.node, self.host = pair.node, pair.host
        self.of_agent = Views(pair.node, AGENT)
        self.of_usbipa = Views(pair.host, USBIPA)

    def plug(self, stick: Stick, port: int) -> str:
        """Returns its busid when both sides have it."""
        on_node, on_host = now(self.node), now(self.host)
        busid = self.node.plug(stick, port)
        self.of_agent.until(lambda view: view.state(busid) == "connected", on_node)
        self.of_usbipa.until(lambda view: view.state(busid) == "attached", on_host)
        self.host.until(f"[ -b {stick.disk} ]", SLOW)
        return busid

    def unplug(self, stick: Stick) -> None:
        """Returns when nothing is left: the next plug begins with a clean record."""
        self.node.unplug(stick)
        self.node.until(f'[ -z "$(tr -d "[:space:]" < {STUB}/match_busid)" ]', SLOW)
        self.until_free()
        for guest in (self.node, self.host):
            guest.sh("udevadm settle", SLOW)

    def until_free(self) -> None:
        """Returns when nothing is imported on the host any more."""
        self.host.until(f"! {TAKEN_PORTS}", SLOW)
