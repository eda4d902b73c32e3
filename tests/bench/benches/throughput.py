"""A stick read through each way there is: plain, encrypted by the kernel, by the daemon, by a tunnel.

Six sticks alike are plugged into the node, each connected in a way of its own, and all stay connected. So
the contenders take turns stick by stick, within seconds, and who is first changes from round to round. A turn
reads the whole stick with O_DIRECT; its content is compared after that. The guests do nothing else meanwhile.

The tunnels carry the product's plain transport, which after the hand-over is what the stock tools have too:
two kernels and a TCP connection. All are dialled from the node, and encrypt with ChaCha20-Poly1305, which is
what the product and ssh prefer; stunnel is told to.

Processor time is that of all of a guest, its kernel's threads included, above what it computes when nothing
happens: of the time that passed, what /proc/stat does not call idle. While others use this machine, that
counts as well when the emulated processor waits for a real one. So there is a second figure, which does not:
the time that the emulator's thread for that processor has run. Ciphers are emulated: only ratios mean much.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench import disturbance
from tests.bench.figures import Aim, Report, Table, median, percentile
from tests.bench.laboratory import Laboratory, tell
from tests.lab import encrypted, product
from tests.lab.devices import Stick
from tests.lab.guest import Guest
from tests.lab.pair import Pair
from tests.lab.product import AGENT, SLOW, USBIPA
from tests.lab.report import LabError
from tests.lab.test_firewalls import NGINX, certify, trust, until_listening

ORDER = 4
AIM = 0.5
CIPHER = "TLS_CHACHA20_POLY1305_SHA256"
MIB = 1.048576
"""In MB."""
KINDS = {"busy": "Processor time, s for each MB", "emulated": "The same by the emulator's count"}
PLAIN, KTLS, RELAY, WSS, SSH, STUNNEL = WAYS = ("plain", "kTLS", "relay", "wss", "ssh -L", "stunnel")
TUNNELS = (SSH, STUNNEL)
SAYS = {PLAIN: "plain", KTLS: "tls", RELAY: "tls (relay)", WSS: "wss", SSH: "plain", STUNNEL: "plain"}
"""What the agent's status says of each; usbipa's says likewise, but ``ws``."""
PLAIN_PORT, SSH_PORT, STUNNEL_PORT, STUNNEL_CABLE_PORT = 3241, 3242, 3243, 3244
UPTIME = "cut -d ' ' -f 1 /proc/uptime"
COPY = "/dev/shm/copy"
IN_KERNEL = """awk -v RS= '/type *: aead/ && !/refcnt *: 1\\n/' /proc/crypto | sed -n 's/^driver *: //p'"""
"""The ciphers of the kernel that are in use. ``ss`` has no name for this one."""
CONNECTED = {PLAIN: 1, RELAY: 2, KTLS: 3, WSS: 4, SSH: 5, STUNNEL: 6}
"""In this order, and in these ports. The relay comes while the kernels have no TLS, and stays afterwards."""
NGINX_LOG = "/var/log/nginx/ciphers.log"
SSH_LOG, STUNNEL_LOG = "/root/ssh.log", "/root/stunnel.log"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reads", type=int, default=9, metavar="N", help="reads of each stick (9)")
    parser.add_argument("--size", type=int, default=8, metavar="MIB", help="of each stick, in MiB (8)")
    parser.add_argument("--stunnel-cipher", default=CIPHER, metavar="SUITE", help=f"({CIPHER})")
    parser.add_argument("--high-speed", action="store_true", help="sticks of USB 2")


@dataclass(frozen=True)
class Read:
    """A stick, read once; or an idle guest, watched for ``seconds``."""

    seconds: float
    busy: Mapping[str, float]
    """Seconds that were not idle, by guest."""
    emulated: Mapping[str, float]
    """Seconds that the thread which emulates the guest's processor ran."""
    waited: float = 0.0

    def above(self, moment: Read, while_: Read) -> Read:
        """Without what looking costs (an idle *moment*) and what happens anyway (an idle *while_*)."""
        share = (self.seconds - moment.seconds) / (while_.seconds - moment.seconds)

        def rest(spent: Mapping[str, float], short: Mapping[str, float],
                 long: Mapping[str, float]) -> Mapping[str, float]:
            return {name: spent[name] - short[name] - (long[name] - short[name]) * share for name in spent}
        return Read(self.seconds, rest(self.busy, moment.busy, while_.busy),
                    rest(self.emulated, moment.emulated, while_.emulated), self.waited)


Round = Mapping[str, Read]      # by way


def measure(laboratory: Laboratory, options: argparse.Namespace) -> Report:
    rounds: list[Round] = []
    with laboratory.guests() as pair:
        sticks = {way: Stick(options.size << 20, serial=f"WAY{number}") for number, way in enumerate(WAYS)}
        _connect(pair, sticks, 8 if options.high_speed else 0, options.stunnel_cipher)
        bench = _Bench(pair, sticks)
        bench.round(WAYS)               # warms up, and does not count
        while len(rounds) < options.reads:
            first = len(rounds) % len(WAYS)
            order = [*WAYS[first:], *WAYS[:first]]
            rounds.append(bench.round(order[::-1 if len(rounds) % 2 else 1]))
            tell(f"round {len(rounds)}: " + ", ".join(
                f"{way} {_rate(options.size, read):.2f}" for way, read in rounds[-1].items()) + " MB/s")
        alone = bench.cipher()
        ciphers = _ciphers(pair, sticks[WSS])
    return _report(rounds, options, ciphers, alone)


class _Bench:
    def __init__(self, pair: Pair, sticks: Mapping[str, Stick]) -> None:
        self._pair = pair
        self._sticks = sticks
        self._threads = {guest.name: _processor_thread(guest) for guest in (pair.node, pair.host)}

    def round(self, order: Sequence[str]) -> Round:
        """Each way once, in this order, above what idle guests of the same round compute."""
        moment, while_ = self._watch("sleep 0.1"), self._watch("sleep 6")
        return {way: self._read(way).above(moment, while_) for way in order}

    def cipher(self) -> float:
        """Seconds for each MB that the cipher alone costs a side, by the emulator's count, in OpenSSL."""
        host = self._pair.host
        thread = self._threads[host.name]
        before = thread.seconds()
        said = host.sh("openssl speed -elapsed -seconds 5 -bytes 16384 -aead -evp chacha20-poly1305 2>&1",
                       SLOW)
        spent = thread.seconds() - before
        done = re.search(r"size blocks: (\d+) ", said)
        if done is None:
            raise LabError(f"what does openssl speed say?\n{said}")
        return spent / (int(done[1]) * 16384 / 1e6)

    def _read(self, way: str) -> Read:
        stick, host = self._sticks[way], self._pair.host
        read = self._watch(f"LC_ALL=C dd if={stick.disk} of={COPY} bs=1M iflag=direct 2>&1")
        if host.sh(f"sha256sum {COPY}; rm {COPY}", SLOW).split()[0] != stick.sha256:
            raise LabError(f"{way}: what was read is not what is on the stick")
        return read

    def _watch(self, command: str) -> Read:
        """What both guests compute while *command* runs on the host."""
        guests = self._pair.node, self._pair.host
        watch = disturbance.Watch()
        before = {guest.name: (_busy(guest), self._threads[guest.name].seconds()) for guest in guests}
        said = self._pair.host.sh(f"{UPTIME}; {command}; {UPTIME}", 600)
        after = {guest.name: (_busy(guest), self._threads[guest.name].seconds()) for guest in guests}
        lines = said.splitlines()
        copied = re.search(r"copied, ([0-9.e-]+) s", said)
        seconds = float(copied[1]) if copied else float(lines[-1]) - float(lines[0])
        return Read(seconds, {name: after[name][0] - before[name][0] for name in before},
                    {name: after[name][1] - before[name][1] for name in before}, watch.share())


# Processor time

@dataclass(frozen=True)
class _Thread:
    path: Path

    def seconds(self) -> float:
        return int(self.path.read_text("ascii").split()[0]) / 1e9


def _processor_thread(guest: Guest) -> _Thread:
    [processor] = guest.qmp.command("query-cpus-fast")
    return _Thread(Path(f"/proc/{processor['thread-id']}/schedstat"))


def _busy(guest: Guest) -> float:
    """Seconds since its start that a guest was not idle: a kernel without ticks knows exactly when it was."""
    uptime, _, _, _, _, _, idle, waits, *_ = guest.sh("cat /proc/uptime; head -n 1 /proc/stat").split()
    return float(uptime) - (int(idle) + int(waits)) / 100


# The six ways

def _connect(pair: Pair, sticks: Mapping[str, Stick], first_port: int, stunnel_cipher: str) -> None:
    """Sets both sides up, and connects each stick in its way."""
    node, host = pair.node, pair.host
    product.configure(host, USBIPA, "\n".join([
        "version: 1", "listen:", "  - {address: \"*\", transports: [tls, ws]}",
        f"  - {{address: \"*\", port: {PLAIN_PORT}, transports: [plain]}}", "rules:",
        f"  - {encrypted.ACCEPT}", "default: accept", ""]))
    _start_nginx(pair)
    _start_stunnel(pair, stunnel_cipher)
    _start_ssh(pair)
    for guest, service in ((host, USBIPA), (node, AGENT)):
        encrypted.without_kernel_tls(guest, service)
    encrypted.enrol(pair)
    hosts = node.sh("cat /etc/usbip-agent/agent.d/*.yaml")
    fingerprint = re.search(r"sha256:[0-9a-f]{64}", hosts)
    if fingerprint is None:
        raise LabError(f"no fingerprint of the host:\n{hosts}")
    rules = {way: f"{{match: {{serial: {stick.properties['serial']}}}, connect: {_host(way)}}}"
             for way, stick in sticks.items()}
    product.configure(node, AGENT, "\n".join([
        "version: 1", "hosts:",
        f"  plain: {{address: host, port: {PLAIN_PORT}, transport: plain}}",
        f"  ssh: {{address: 127.0.0.1, port: {SSH_PORT}, transport: plain}}",
        f"  stunnel: {{address: 127.0.0.1, port: {STUNNEL_PORT}, transport: plain}}",
        f"  wss: {{transport: wss, url: \"wss://host/usbip\", fingerprint: \"{fingerprint[0]}\"}}",
        "rules:", *(f"  - {rule}" for rule in rules.values()), ""]))
    for way, number in CONNECTED.items():
        if way == KTLS:
            for guest in (node, host):
                guest.sh(f"rm {encrypted.TLS_OFF}; modprobe tls")
        busid = node.plug(sticks[way], first_port + number)
        product.until_state(node, busid, "connected")
        host.until(f"[ -b {sticks[way].disk} ]", SLOW)
        shown = [side[busid]["transport"] for side in (product.devices(node), product.imports(host))]
        if shown != [SAYS[way], SAYS[way].replace("wss", "ws")]:
            raise LabError(f"{way}: the stick is connected by {' and '.join(shown)}")
        tell(f"{way}: connected")


def _host(way: str) -> str:
    """What the agent's configuration calls the host, for this way."""
    return {KTLS: encrypted.HOST, RELAY: encrypted.HOST, SSH: "ssh"}.get(way, way)


def _start_nginx(pair: Pair) -> None:
    host = pair.host
    trust(pair.node, certify(host))
    site = NGINX.replace("server_name host;", f"server_name host; access_log {NGINX_LOG} ciphers;")
    host.put("/etc/nginx/sites-enabled/default",
             f"log_format ciphers '$ssl_protocol $ssl_cipher';\n{site}")
    host.run(["systemctl", "restart", "nginx"], SLOW)
    until_listening(host, 443)


def _start_stunnel(pair: Pair, cipher: str) -> None:
    common = (f"foreground = yes\ndebug = info\noutput = {STUNNEL_LOG}\npid =\n"
              f"[usbip]\nciphersuites = {cipher}\n")
    node, host = pair.node, pair.host
    host.put("/root/stunnel.conf", f"{common}accept = {STUNNEL_CABLE_PORT}\n"
                                   f"connect = 127.0.0.1:{PLAIN_PORT}\n"
                                   "cert = /etc/nginx/lab.pem\nkey = /etc/nginx/lab.key\n")
    node.put("/root/stunnel.conf", f"{common}client = yes\naccept = 127.0.0.1:{STUNNEL_PORT}\n"
                                   f"connect = {host.address}:{STUNNEL_CABLE_PORT}\n"
                                   "verifyChain = yes\nCAfile = /etc/ssl/certs/lab.pem\ncheckHost = host\n")
    for guest, port in ((host, STUNNEL_CABLE_PORT), (node, STUNNEL_PORT)):
        guest.start_job("exec stunnel4 /root/stunnel.conf")
        until_listening(guest, port)


def _start_ssh(pair: Pair) -> None:
    node, host = pair.node, pair.host
    key = node.sh("mkdir -p -m 700 /root/.ssh; ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519; "
                  "cat /root/.ssh/id_ed25519.pub", SLOW)
    host.sh("mkdir -p -m 700 /root/.ssh; ssh-keygen -A; systemctl start ssh", SLOW)
    host.put("/root/.ssh/authorized_keys", f"{key}\n", 0o600)
    until_listening(host, 22)
    node.start_job(f"exec ssh -v -E {SSH_LOG} -N -o BatchMode=yes -o StrictHostKeyChecking=accept-new "
                   f"-L 127.0.0.1:{SSH_PORT}:127.0.0.1:{PLAIN_PORT} root@{host.address}")
    until_listening(node, SSH_PORT)


def _ciphers(pair: Pair, over_nginx: Stick) -> dict[str, str]:
    """What encrypts each way. nginx tells when a connection is over, so that one is ended for it."""
    node, host = pair.node, pair.host
    version = node.sh("ss -Htie | sed -n 's/.*tcp-ulp-tls version: \\([^ ]*\\).*/TLSv\\1/p' | sort -u")
    in_kernel = node.sh(IN_KERNEL)
    ssh = node.sh(f"sed -n 's/.*client->server cipher: \\([^ ]*\\).*/\\1/p' {SSH_LOG} | head -n 1")
    stunnel = node.sh(f"grep -o 'TLSv[0-9.]* ciphersuite: [^ ]*' {STUNNEL_LOG} | tail -n 1")
    node.unplug(over_nginx)
    host.until(f"[ -s {NGINX_LOG} ]", SLOW)
    outer = host.sh(f"tail -n 1 {NGINX_LOG}")
    preferred = node.sh("sed -n 's/^Ciphersuites = \\([^:]*\\).*/\\1/p' /usr/share/usbip-agent/openssl.cnf")
    return {PLAIN: "none", KTLS: f"{version} {in_kernel}",
            RELAY: f"{preferred} (preferred by both)", WSS: f"{outer}, and inside as relay", SSH: ssh,
            STUNNEL: stunnel.replace("ciphersuite: ", "")}


# What comes out

def _report(rounds: Sequence[Round], options: argparse.Namespace, ciphers: Mapping[str, str],
            alone: float) -> Report:
    figures: dict[str, dict[str, Any]] = {way: {
        "rate": median(_rate(options.size, one[way]) for one in rounds),
        "rate_ratio": median(one[PLAIN].seconds / one[way].seconds for one in rounds),
        **{kind: _cost(rounds, way, kind, options.size * MIB) for kind in KINDS},
        "cipher": ciphers[way],
    } for way in WAYS}
    extra = {kind: _extra(rounds, kind) for kind in KINDS}
    waited = median(read.waited for one in rounds for read in one.values())
    rates = Table("Rate", ("", "MB/s", "of plain"), [
        (way, f"{seen['rate']:.2f}", f"{seen['rate_ratio']:.2f}") for way, seen in figures.items()])
    costs = [_costs(title, {way: seen[kind] for way, seen in figures.items()})
             for kind, title in KINDS.items()]
    used = Table("Cipher", ("", ""), list(ciphers.items()))
    return Report(
        "A stick read through each way",
        {**figures, "extra": extra, "cipher_alone": alone, "waited": waited}, (rates, *costs, used),
        [Aim(f"kTLS's extra processor time is {extra['busy']['ratio']:.2f} × {extra['busy']['best']}'s, "
             f"half of the rounds {extra['busy']['low']:.2f} to {extra['busy']['high']:.2f} "
             f"(aim ≤ {AIM} × the best tunnel's)", extra["busy"]["ratio"] <= AIM)],
        [f"By the emulator's count it is {extra['emulated']['ratio']:.2f} × "
         f"{extra['emulated']['best']}'s, {extra['emulated']['low']:.2f} to {extra['emulated']['high']:.2f}.",
         f"By that count the cipher alone, emulated, is {2 * alone:.3f} s for each MB, both sides together "
         "(ChaCha20-Poly1305 of OpenSSL): no way of moving the data can save that.",
         f"{len(rounds)} reads of {options.size} MiB by each way, "
         f"{'high speed' if options.high_speed else 'SuperSpeed'}; medians, also of each round's ratios.",
         f"Extra: above plain, both sides together. For each second of a read the guests waited "
         f"{waited:.1f} s (median) for a processor of this machine."])


def _rate(size: int, read: Read) -> float:
    return size * MIB / read.seconds


def _sides(read: Read, kind: str) -> dict[str, float]:
    spent: Mapping[str, float] = getattr(read, kind)
    return {**spent, "both": sum(spent.values())}


def _cost(rounds: Sequence[Round], way: str, kind: str, megabytes: float) -> dict[str, dict[str, float]]:
    """Seconds for each MB, and the ratio to plain, on each side and on both together."""
    pairs = [(_sides(one[way], kind), _sides(one[PLAIN], kind)) for one in rounds]
    return {side: {"per_mb": median(ours[side] for ours, _ in pairs) / megabytes,
                   "ratio": median(ours[side] / plain[side] for ours, plain in pairs)}
            for side in ("node", "host", "both")}


def _extra(rounds: Sequence[Round], kind: str) -> dict[str, Any]:
    """The tunnel that costs least, and kTLS's extra cost as a part of that one's, of each round."""
    def above_plain(one: Round, way: str) -> float:
        return _sides(one[way], kind)["both"] - _sides(one[PLAIN], kind)["both"]
    best = min(TUNNELS, key=lambda way: median(above_plain(one, way) for one in rounds))
    ratios = [above_plain(one, KTLS) / above_plain(one, best) for one in rounds]
    return {"best": best, "ratio": median(ratios), "low": percentile(ratios, 25),
            "high": percentile(ratios, 75), "ratios": ratios}


def _costs(title: str, seen: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Table:
    rows = [(way, *(text for side in ("node", "host", "both") for text in (
        f"{cost[side]['per_mb']:.3f}", f"{cost[side]['ratio']:.2f}"))) for way, cost in seen.items()]
    return Table(title, ("", "node", "ratio", "host", "ratio", "both", "ratio"), rows)
