"""The lab by hand: ``python3 -m tests.lab build | up | exec | plug | unplug | cut | mend | down``.

``up`` leaves a process behind that owns the guests and answers the other verbs on a socket, one at
a time each in a thread of its own; ``down`` or the death of that process ends the guests.
"""
from __future__ import annotations

import argparse
import json
import os
import queue
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from . import cache, debs, snapshot
from .devices import KINDS, Device
from .guest import Guest
from .image import SUITES
from .pair import Pair
from .report import LabError, say

Request = dict[str, Any]


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return _do(options)
    except (LabError, OSError) as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m tests.lab", description=__doc__)
    parser.add_argument("--name", default="default", help="several labs may be up, by name")
    verbs = parser.add_subparsers(dest="verb", required=True)
    build = verbs.add_parser("build", help="make images and snapshots now")
    build.add_argument("suites", nargs="*", default=["trixie"], metavar="SUITE",
                       help=f"{', '.join(SUITES)} (default: trixie)")
    for verb, text in (("up", "start guests, in the background"), ("serve", argparse.SUPPRESS)):
        up = verbs.add_parser(verb, help=text)
        up.add_argument("--debs", metavar="DIR", help="install these packages (kept as snapshot)")
        up.add_argument("--build-debs", action="store_true", help="build and install the tree's")
        up.add_argument("--cold", action="store_true", help="boot in place of a snapshot")
        up.add_argument("--node-suite", choices=SUITES, default="trixie")
        up.add_argument("--host-suite", choices=SUITES, default="trixie")
    run = verbs.add_parser("exec", help="run a command in a guest (several words: as a list)")
    run.add_argument("--timeout", type=float, default=120.0)
    run.add_argument("guest")
    run.add_argument("command", nargs=argparse.REMAINDER)
    put = verbs.add_parser("put", help="copy a file into a guest")
    put.add_argument("guest")
    put.add_argument("source", type=Path)
    put.add_argument("path")
    plug = verbs.add_parser("plug", help="plug a device in; prints its bus id")
    plug.add_argument("guest")
    plug.add_argument("kind", choices=sorted(KINDS))
    plug.add_argument("port")
    for verb, text in (("unplug", "pull the device out of a port"),):
        unplug = verbs.add_parser(verb, help=text)
        unplug.add_argument("guest")
        unplug.add_argument("port")
    for verb, text in (("cut", "cut a guest's cable"), ("mend", "and mend it"),
                       ("console", "the tail of a guest's console"),
                       ("context", "what a failed test would show"),
                       ("reboot", "restart a guest in an orderly way")):
        verbs.add_parser(verb, help=text).add_argument("guest")
    verbs.add_parser("down", help="end the guests")
    return parser


def _do(options: argparse.Namespace) -> int:
    if options.verb == "build":
        for suite in options.suites:
            say(f"{suite}: {snapshot.booted(suite).disk.parent}")
        return 0
    if options.verb == "up":
        return _up(options)
    if options.verb == "serve":
        return _serve(options)
    reply = _ask(options.name, {key: str(value) if isinstance(value, Path) else value
                                for key, value in vars(options).items()})
    sys.stdout.write(reply.get("out", ""))
    sys.stderr.write(reply.get("err", ""))
    return int(reply.get("rc", 0))


def _socket_path(name: str) -> Path:
    return cache.root() / f"up-{name}.socket"


def _up(options: argparse.Namespace) -> int:
    """Starts the owner of the guests in a session of its own, and waits until they run."""
    path = _socket_path(options.name)
    try:
        _ask(options.name, {"verb": "ping"})
    except OSError:
        path.unlink(missing_ok=True)
    else:
        raise LabError("is up already; `down` ends it")
    states = [f"--{key.replace('_', '-')}={value}" for key, value in vars(options).items()
              if key in ("debs", "node_suite", "host_suite") and value]
    flags = [f"--{key.replace('_', '-')}" for key in ("cold", "build_debs")
             if getattr(options, key)]
    reading, writing = os.pipe()
    subprocess.Popen(
        [sys.executable, "-m", __package__ or "tests.lab", "--name", options.name, "serve",
         *states, *flags], stdin=subprocess.DEVNULL, stdout=writing, start_new_session=True)
    os.close(writing)
    with os.fdopen(reading) as ready:
        if ready.readline().strip() != "up":
            return 1
    say("up")
    return 0


def _serve(options: argparse.Namespace) -> int:
    roles = {"node": snapshot.Role(options.node_suite), "host": snapshot.Role(options.host_suite)}
    if options.debs or options.build_debs:
        found = debs.find(options.debs)
        roles = {"node": snapshot.Role(options.node_suite, debs.pick(found, debs.NODE)),
                 "host": snapshot.Role(options.host_suite, debs.pick(found, debs.HOST))}
    with Pair(snapshot.prepare(roles)) as pair, socket.socket(socket.AF_UNIX) as server:
        pair.start(options.cold)
        path = _socket_path(options.name)
        path.unlink(missing_ok=True)
        server.bind(str(path))
        server.listen()
        print("up", flush=True)
        # Whoever started us may wait for the end of our output.
        null = os.open(os.devnull, os.O_WRONLY)
        for number in (1, 2):
            os.dup2(null, number)
        over: queue.SimpleQueue[bool] = queue.SimpleQueue()
        threading.Thread(target=_accept, args=(server, pair, over), daemon=True).start()
        over.get()
        path.unlink(missing_ok=True)
    return 0


def _accept(server: socket.socket, pair: Pair, over: queue.SimpleQueue[bool]) -> None:
    while True:
        connection, _ = server.accept()
        threading.Thread(target=_talk, args=(connection, pair, over), daemon=True).start()


def _talk(connection: socket.socket, pair: Pair, over: queue.SimpleQueue[bool]) -> None:
    with connection, connection.makefile("rwb") as stream:
        request = json.loads(stream.readline())
        try:
            reply = _handle(request, pair)
        except Exception as error:  # for the person at the other end
            reply = {"err": f"lab: {error}\n", "rc": 1}
        stream.write(json.dumps(reply).encode() + b"\n")
        stream.flush()
    if request["verb"] == "down":
        over.put(True)


def _handle(request: Request, pair: Pair) -> Request:
    verb = request["verb"]
    if verb in ("ping", "down"):
        return {}
    guest = pair.guests.get(request["guest"])
    if guest is None:
        raise LabError(f"no guest {request['guest']}: one of {', '.join(pair.guests)}")
    if verb == "exec":
        words = request["command"]
        result = guest.run(words[0] if len(words) == 1 else words, request["timeout"], check=False)
        return {"out": result.raw.decode("utf-8", "replace"), "err": result.stderr,
                "rc": result.rc if result.rc >= 0 else 128 - result.rc}
    if verb == "put":
        guest.put(request["path"], Path(request["source"]))
    elif verb == "plug":
        return {"out": guest.plug(KINDS[request["kind"]](), request["port"]) + "\n"}
    elif verb == "unplug":
        guest.unplug(_at(guest, request["port"]))
    elif verb == "cut":
        guest.cut()
    elif verb == "mend":
        guest.mend()
    elif verb == "reboot":
        guest.reboot()
    elif verb in ("console", "context"):
        return {"out": (guest.console if verb == "console" else guest.context)() + "\n"}
    return {}


def _at(guest: Guest, port: str) -> Device:
    for device in guest.devices:
        if device.port == port:
            return device
    raise LabError(f"nothing in port {port}")


def _ask(name: str, request: Request) -> Request:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(_socket_path(name)))
        client.sendall(json.dumps(request).encode() + b"\n")
        with client.makefile("rb") as stream:
            line = stream.readline()
    if not line:
        raise LabError("the lab has ended")
    reply: Request = json.loads(line)
    return reply
