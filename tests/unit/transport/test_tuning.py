"""What the kernel's drivers cannot set: how soon a dead peer's end is noticed, on sockets of both ends."""

from __future__ import annotations

import asyncio
import socket

import pytest

from usbip_agent.application_side.doors import Doors
from usbip_agent.policy.hosts import Host
from usbip_agent.policy.listeners import Listener
from usbip_agent.policy.transports import ListenerTransport, Transport
from usbip_agent.transport.dial import Dialler
from usbip_agent.transport.stream import TCP_USER_TIMEOUT, tune
from usbip_agent.transport.websocket import Pings
from usbip_agent.wire import VERSION

PLAIN = Listener("127.0.0.1", 0, frozenset({ListenerTransport.PLAIN}))


def option(connected: socket.socket, number: int) -> int:
    return connected.getsockopt(socket.IPPROTO_TCP, number)


@pytest.mark.parametrize("dead_after", [3.0, 10.0, 30.0, 600.0])
def test_a_dead_peer_is_noticed_in_time_and_an_idle_one_is_left_alone(dead_after: float) -> None:
    with socket.socket() as tuned:
        tune(tuned, dead_after)
        assert tuned.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        idle, interval, probes = (option(tuned, each) for each in (
            socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT))
        assert 2 <= probes <= 5, "one lost packet is no end"
        assert dead_after - 1 <= idle + probes * interval <= dead_after + 1
        assert option(tuned, TCP_USER_TIMEOUT) == dead_after * 1000
        assert option(tuned, socket.TCP_NODELAY) == 1
        # The kernel's drivers take a receive timeout for the end.
        assert not any(tuned.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16))


@pytest.mark.parametrize("dead_after", [3.0, 10.0, 30.0, 600.0])
def test_pings_notice_it_in_time_as_well_and_keep_an_idle_link_open(dead_after: float) -> None:
    pings = Pings.within(dead_after)
    assert pings.every + pings.answer_within == dead_after
    assert pings.answer_within >= dead_after / 2, "a slow answer is no end"
    assert 1 <= pings.every <= 30, "a reverse proxy ends what is silent for a minute"


class Nobody:
    """Whom a plain listener knows."""

    generation = 0

    def seen(self, name: str, peer: str, now: int) -> None: ...
    def certificates(self) -> str: return ""
    def name_of(self, fingerprint: str) -> str | None: return None


async def test_each_end_has_its_own_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        port = listening.getsockname()[1]
        host = Host("lab", "127.0.0.1", port, Transport.PLAIN, dead_after=20.0)
        dialled, (accepted, _) = await asyncio.gather(
            Dialler(lambda: None)(host), asyncio.get_running_loop().sock_accept(listening))
        accepted.setblocking(False)
        dialled.socket.send(VERSION.to_bytes(2, "big") + bytes(14))
        taken = await Doors(None, Nobody(), lambda: 40.0).establish(accepted, PLAIN)
        assert option(dialled.socket, TCP_USER_TIMEOUT) == 20_000
        assert option(taken.socket, TCP_USER_TIMEOUT) == 40_000
        await dialled.close()
        await taken.close()
