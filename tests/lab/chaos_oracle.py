"""After a quiet period: compares what is plugged in, what the node says and what the host has."""
from __future__ import annotations

from . import product
from .chaos_world import World
from .devices import Serial, Stick
from .guest import Guest

RECOVERY = 180.0        # seconds until everything must be in order again; backoff is a minute at most
UNSTUCK = 60.0          # seconds: any process is in D state for a moment, as when it waits for a lock
LARGEST_MEMORY = 60_000     # kB of a daemon; far above what it has, far below a leak
MOST_DESCRIPTORS = 100
IN_D_STATE = "$(ps -eo stat,comm | awk '$1 ~ /^D/ && $2 !~ /kworker/ {print $2}')"
TTY = "$(echo /dev/serial/by-id/usb-QEMU_QEMU_USB_SERIAL_*)"


def judge(world: World) -> None:
    """Awaits that every device that should be there is, and nothing else; then looks at what must not be."""
    wanted = sorted(device.busid for device in world.plugged.values())
    for guest, service in world.sides():
        guest.until(f"systemctl is-active {service}", RECOVERY)
    for busid in wanted:
        product.until_state(world.node, busid, "connected", RECOVERY)
    product.until_attached(world.host, len(wanted), RECOVERY)
    world.host.until(f"[ $({product.TAKEN_PORTS} | wc -l) = {len(wanted)} ]", RECOVERY)
    bound = f"$(ls -d {product.STUB}/[0-9]*-* 2>/dev/null | sed 's,.*/,,' | sort | xargs)"
    world.node.until(f"[ \"{bound}\" = '{' '.join(wanted)}' ]", RECOVERY)
    claimed = f"$(tr ' ' '\\n' < {product.STUB}/match_busid | sort | xargs)"
    world.node.until(f"[ \"{claimed}\" = '{' '.join(wanted)}' ]", RECOVERY)
    assert sorted(product.imports(world.host)) == wanted
    for guest, service in world.sides():
        _judge_health(world, guest, service)
    _judge_content(world)


def _judge_health(world: World, guest: Guest, service: str) -> None:
    assert guest.dmesg_warnings() == []
    guest.until(f"[ -z \"{IN_D_STATE}\" ]", UNSTUCK)
    pid = product.pid(guest, service)
    memory = int(guest.sh(f"awk '/VmRSS/ {{print $2}}' /proc/{pid}/status"))
    descriptors = int(guest.sh(f"ls /proc/{pid}/fd | wc -l"))
    assert memory < LARGEST_MEMORY and descriptors < MOST_DESCRIPTORS, (guest.name, memory, descriptors)
    world.levels.setdefault(service, []).append((memory, descriptors))


def _judge_content(world: World) -> None:
    """One device is used, so that a link that looks alive is."""
    device = world.chance.choice([*world.plugged.values(), None])
    if isinstance(device, Stick):
        world.host.sh("echo 3 > /proc/sys/vm/drop_caches")
        assert world.host.disk_hash(device, RECOVERY) == device.sha256
    if isinstance(device, Serial):
        with device.line() as line:
            line.settimeout(RECOVERY)
            world.host.until(f"[ -c {TTY} ]", RECOVERY)
            world.host.sh(f"stty -F {TTY} raw -echo; echo chaos > {TTY}")
            said = line.makefile("rb").readline()
            assert said.endswith(b"chaos\n"), said
