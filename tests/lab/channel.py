"""The host's end of the agent in a guest: run commands, move files, over one socket.

One thread reads; callers wait on one condition. Nothing here starts processes.
"""
from __future__ import annotations

import base64
import itertools
import json
import re
import secrets
import signal
import socket
import threading
import time
from dataclasses import dataclass
from typing import Any, Callable

from .report import Deadline, LabError, Timeout

CHUNK = 65536
GRACE = 15.0      # how much later than in the guest a timeout is noticed here


@dataclass(frozen=True)
class Result:
    """How a command in a guest ended."""

    rc: int
    raw: bytes
    stderr: str
    timed_out: bool = False

    @property
    def stdout(self) -> str:
        """The output as text, without the final newline."""
        return self.raw.decode("utf-8", "replace").rstrip("\n")

    @property
    def json(self) -> Any:
        """The output read as JSON."""
        return json.loads(self.raw)


class Job:
    """A command that runs in the guest; its output arrives while it does."""

    def __init__(self, channel: Channel, number: int, what: str) -> None:
        self._channel = channel
        self.number = number
        self.what = what
        self.out = bytearray()
        self.err = bytearray()
        self.end: dict[str, Any] | None = None

    @property
    def output(self) -> str:
        """What it has written to stdout so far."""
        with self._channel.changed:
            return self.out.decode("utf-8", "replace")

    def wait_for(self, pattern: str, deadline: float = 30.0) -> re.Match[str]:
        """The first match of a regular expression in stdout, as soon as it is there."""
        def found() -> re.Match[str] | None:
            return re.search(pattern, self.out.decode("utf-8", "replace"), re.M)
        self._channel.wait(lambda: found() is not None or self.end is not None, deadline,
                           lambda: f"{self.what}: no {pattern!r} in its output:\n{self.output}")
        match = found()
        if match is None:
            raise LabError(f"{self.what}: ended ({self.end}) without {pattern!r}:\n{self.output}")
        return match

    def wait(self, deadline: float = 30.0) -> Result:
        """How it ended."""
        end = self.reply(deadline)
        return Result(end["rc"], bytes(self.out), self.err.decode("utf-8", "replace"),
                      end["timed_out"])

    def reply(self, deadline: float) -> dict[str, Any]:
        """The raw last message; an error of the agent itself is raised."""
        self._channel.wait(lambda: self.end is not None, deadline,
                           lambda: f"{self.what}: no answer from the guest")
        assert self.end is not None
        if "error" in self.end:
            raise LabError(f"{self.what}: {self.end['error']}")
        return self.end

    def kill(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Signals the command's process group."""
        self._channel.request("kill", target=self.number, signal=int(number))


class Channel:
    """One connection to a guest's agent; it outlives resets of the guest."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._numbers = itertools.count(1)
        self._jobs: dict[int, Job] = {}
        self._writing = threading.Lock()
        self._closed = False
        self.changed = threading.Condition()
        self.boots: list[str] = []          # boot ids in the order the agent said hello
        threading.Thread(target=self._read, name="lab channel", daemon=True).start()

    def close(self) -> None:
        """Ends the reader; open jobs fail."""
        with self.changed:
            self._closed = True
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._sock.close()

    def wait(self, done: Callable[[], bool], seconds: float, what: Callable[[], str]) -> None:
        """Blocks until ``done`` holds; it is asked again whenever something arrived."""
        limit = Deadline(seconds)
        with self.changed:
            while not done():
                if self._closed:
                    raise LabError(f"{what()} (the guest is gone)")
                if not limit.left():
                    raise Timeout(f"{what()} (within {seconds:g} s)")
                self.changed.wait(limit.left())

    def wait_boot(self, count: int, seconds: float) -> None:
        """Waits until the agent has started ``count`` times since this channel was opened."""
        self.wait(lambda: len(self.boots) >= count, seconds,
                  lambda: "the guest's agent did not start")

    def start(self, argv: list[str], timeout: float | None, stdin: bytes = b"") -> Job:
        """Starts a command; ``timeout`` seconds later the guest kills it."""
        return self._send("run", " ".join(argv[-1:])[:200], argv=argv, timeout=timeout,
                          stdin=base64.b64encode(stdin).decode())

    def request(self, op: str, deadline: float = 30.0, **arguments: Any) -> dict[str, Any]:
        """One request to the agent itself, and its answer."""
        return self._send(op, op, **arguments).reply(deadline)

    def resume(self, deadline: float) -> None:
        """Brings a guest woken from a snapshot into the present, with randomness of its own."""
        self.request("resume", deadline, time=time.time(),
                     seed=base64.b64encode(secrets.token_bytes(64)).decode())

    def put(self, path: str, data: bytes, mode: int) -> None:
        """Writes a file in the guest."""
        for offset in range(0, len(data) or 1, CHUNK):
            piece = base64.b64encode(data[offset:offset + CHUNK]).decode()
            self.request("put", path=path, data=piece, offset=offset, mode=mode)

    def get(self, path: str) -> bytes:
        """Reads a file of the guest."""
        data = b""
        while True:
            reply = self.request("get", path=path, offset=len(data), size=CHUNK)
            piece = base64.b64decode(reply["data"])
            if not piece:
                return data
            data += piece

    def _send(self, op: str, what: str, **arguments: Any) -> Job:
        job = Job(self, next(self._numbers), what)
        line = json.dumps({"id": job.number, "op": op, **arguments}).encode() + b"\n"
        with self.changed:
            if self._closed:
                raise LabError(f"{what}: the guest is gone")
            self._jobs[job.number] = job
        try:
            with self._writing:
                self._sock.sendall(line)
        except OSError as error:
            raise LabError(f"{what}: the guest is gone ({error})") from error
        return job

    def _read(self) -> None:
        buffer = b""
        while True:
            try:
                data = self._sock.recv(1 << 18)
            except OSError:
                data = b""
            with self.changed:
                if not data:
                    self._closed = True
                    self.changed.notify_all()
                    return
                *lines, buffer = (buffer + data).split(b"\n")
                for line in lines:
                    try:
                        self._take(json.loads(line))
                    except ValueError:
                        continue            # cut off by a reset
                self.changed.notify_all()

    def _take(self, message: dict[str, Any]) -> None:
        if "hello" in message:
            self.boots.append(message["hello"])
            for lost in self._jobs.values():
                lost.end = {"error": "the guest's agent started anew"}
            self._jobs.clear()
            return
        job = self._jobs.get(message.get("id", 0))
        if job is None:
            return
        job.out += base64.b64decode(message.get("out", ""))
        job.err += base64.b64decode(message.get("err", ""))
        if "end" in message:
            job.end = message["end"]
            del self._jobs[job.number]
