"""What can go wrong, each fault with how likely it is. None waits for the product to recover."""
from __future__ import annotations

from typing import Callable

from .chaos_world import SLOTS, World
from .product import AGENT

FORBIDDEN = "/etc/modprobe.d/chaos.conf"


def plug(world: World) -> None:
    free = [slot for slot in SLOTS if slot not in world.plugged]
    if not free:
        return pull(world)
    slot = world.chance.choice(free)
    world.plugged[slot] = SLOTS[slot]()
    world.node.plug(world.plugged[slot], slot, wait=False)


def pull(world: World) -> None:
    if not world.plugged:
        return plug(world)
    world.node.unplug(world.plugged.pop(world.chance.choice(list(world.plugged))), wait=False)


def swap(world: World) -> None:
    """One device goes, and the next comes into the same port before anybody has looked."""
    if not world.plugged:
        return plug(world)
    slot = world.chance.choice(list(world.plugged))
    world.node.unplug(world.plugged.pop(slot), wait=False)
    world.plugged[slot] = SLOTS[slot]()
    world.node.plug(world.plugged[slot], slot, wait=False)


def cut_the_cable(world: World) -> None:
    silent = world.chance.random() < 0.7
    world.node.cut(silent=silent)
    world.for_a_while(0.5, 25)
    world.node.mend()


def lose_packets(world: World) -> None:
    loss, delay = world.chance.randint(5, 30), world.chance.randint(5, 150)
    guest, _ = world.either()
    guest.run(f"tc qdisc replace dev eth0 root netem loss {loss}% delay {delay}ms")
    world.for_a_while(5, 20)
    guest.run("tc qdisc del dev eth0 root")


def freeze(world: World) -> None:
    guest, _ = world.either()
    guest.freeze()
    world.for_a_while(0.5, 20)
    guest.thaw()


def reset(world: World) -> None:
    guest, _ = world.either()
    guest.reboot(hard=True)


def load_late(world: World) -> None:
    """A machine starts with everything plugged in, and the driver's module comes after the daemon."""
    guest, service = world.either()
    module = "usbip-host" if service == AGENT else "vhci-hcd"
    guest.put(FORBIDDEN, f"install {module} /bin/false\n")
    guest.run("sync")
    guest.reboot(hard=True)
    world.for_a_while(0, 10)
    guest.run(f"rm {FORBIDDEN}; sync; modprobe {module}")


def crash(world: World) -> None:
    guest, service = world.either()
    guest.run(f"kill -9 $(systemctl show -p MainPID --value {service})", check=False)


def crash_during_a_change(world: World) -> None:
    """The agent dies at some point of connecting a device or of letting one go."""
    world.chance.choice((plug, pull, swap))(world)
    world.for_a_while(0, 1)
    world.node.run(f"kill -9 $(systemctl show -p MainPID --value {AGENT})", check=False)
    world.chance.choice((plug, pull, swap))(world)


def restart(world: World) -> None:
    guest, service = world.either()
    guest.run(["systemctl", "restart", service], 120, check=False)


def reload(world: World) -> None:
    guest, service = world.either()
    guest.run(["systemctl", "reload", service], 120, check=False)


FAULTS: dict[str, tuple[int, Callable[[World], object]]] = {
    "plug": (7, plug), "pull": (4, pull), "swap": (2, swap), "cable cut": (3, cut_the_cable),
    "packet loss": (2, lose_packets), "frozen machine": (2, freeze), "power cut": (1, reset),
    "late module": (1, load_late), "kill -9": (3, crash), "kill -9 in a change": (2, crash_during_a_change),
    "restart": (2, restart), "reload": (1, reload)}
"""By name: how likely, and what happens."""
