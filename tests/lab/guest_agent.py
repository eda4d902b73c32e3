"""The lab's hand inside a guest. Runs there as lab-agent.service, and nowhere else.

JSON lines over a virtio-serial port, so that no test of the network can cut it off. It sleeps in
``read`` between requests, so that it survives a snapshot and costs nothing while a test measures.

Request: ``{"id": n, "op": …}``. Answers to it: any number of ``{"id": n, "out"|"err": base64}``,
then one ``{"id": n, "end": {…}}``. Unasked: ``{"hello": boot id}`` whenever the agent starts.
"""
from __future__ import annotations

import base64
import fcntl
import json
import os
import signal
import subprocess
import threading
import time
from typing import IO, Any, Callable

PORT = "/dev/virtio-ports/lab"
CHUNK = 32768
RNDRESEEDCRNG = 0x5207
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root", "LANG": "C.UTF-8", "TERM": "dumb", "DEBIAN_FRONTEND": "noninteractive",
}
Request = dict[str, Any]


class Agent:
    """Serves one port until the guest stops."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._lock = threading.Lock()
        self._jobs: dict[int, subprocess.Popen[bytes]] = {}
        self._operations: dict[str, Callable[[Request], dict[str, Any]]] = {
            "run": self._run, "kill": self._kill, "put": self._put, "get": self._get,
            "resume": self._resume,
        }

    def serve(self) -> None:
        """Greets, then answers requests for ever, each in a thread of its own."""
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            # The leading newline ends whatever a previous life left half-written.
            self._write(b"\n" + json.dumps({"hello": file.read().strip()}).encode() + b"\n")
        buffer = b""
        while True:
            data = os.read(self._port, 65536)
            if not data:             # nobody holds the other end; a test run is about to end us
                time.sleep(1)
                continue
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                try:
                    request = json.loads(line)
                except ValueError:
                    continue         # the second half of a line sent before a reset
                threading.Thread(target=self._answer, args=(request,), daemon=True).start()

    def _write(self, data: bytes) -> None:
        with self._lock:
            while data:
                data = data[os.write(self._port, data):]

    def _send(self, number: int, **message: Any) -> None:
        self._write(json.dumps({"id": number, **message}).encode() + b"\n")

    def _answer(self, request: Request) -> None:
        try:
            end = self._operations[request["op"]](request)
        except Exception as error:  # the caller must hear of it, whatever it is
            end = {"error": f"{type(error).__name__}: {error}"}
        self._send(request["id"], end=end)

    def _run(self, request: Request) -> dict[str, Any]:
        """argv, stdin (base64), timeout → rc, timed_out; output is streamed meanwhile."""
        number = request["id"]
        stdin = base64.b64decode(request.get("stdin", ""))
        process = subprocess.Popen(
            request["argv"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd="/root",
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            env=ENVIRONMENT, start_new_session=True)
        self._jobs[number] = process
        helpers = [threading.Thread(target=self._pump, args=(number, name, stream), daemon=True)
                   for name, stream in (("out", process.stdout), ("err", process.stderr))]
        if stdin:
            helpers.append(threading.Thread(target=self._feed, args=(process, stdin), daemon=True))
        for helper in helpers:
            helper.start()
        timed_out = False
        try:
            process.wait(request.get("timeout"))
        except subprocess.TimeoutExpired:
            timed_out = True
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        # A daemon the command left behind may hold the pipe open: don't wait for its end.
        for helper in helpers:
            helper.join(1)
        del self._jobs[number]
        return {"rc": process.returncode, "timed_out": timed_out}

    def _pump(self, number: int, name: str, stream: IO[bytes]) -> None:
        while data := os.read(stream.fileno(), CHUNK):
            self._send(number, **{name: base64.b64encode(data).decode()})

    @staticmethod
    def _feed(process: subprocess.Popen[bytes], data: bytes) -> None:
        assert process.stdin is not None
        try:
            with process.stdin as stdin:
                stdin.write(data)
        except BrokenPipeError:
            pass                     # it ended without reading all: its return code tells

    def _kill(self, request: Request) -> dict[str, Any]:
        """target, signal: signals the process group of a running command."""
        process = self._jobs.get(request["target"])
        if process is not None:
            os.killpg(process.pid, request["signal"])
        return {"killed": process is not None}

    @staticmethod
    def _put(request: Request) -> dict[str, Any]:
        """path, data (base64), offset, mode: one piece of a file."""
        path = request["path"]
        os.makedirs(os.path.dirname(path), exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | (0 if request["offset"] else os.O_TRUNC)
        file = os.open(path, flags, request["mode"])
        try:
            os.fchmod(file, request["mode"])
            os.pwrite(file, base64.b64decode(request["data"]), request["offset"])
        finally:
            os.close(file)
        return {}

    @staticmethod
    def _get(request: Request) -> dict[str, Any]:
        """path, offset → data (base64), empty at the end of the file."""
        with open(request["path"], "rb") as file:
            file.seek(request["offset"])
            return {"data": base64.b64encode(file.read(request["size"])).decode()}

    @staticmethod
    def _resume(request: Request) -> dict[str, Any]:
        """time, seed: what a machine woken from a snapshot lacks.

        Without a seed all copies of a snapshot would draw the same "random" keys and nonces.
        """
        time.clock_settime(time.CLOCK_REALTIME, request["time"])
        random = os.open("/dev/urandom", os.O_WRONLY)
        try:
            os.write(random, base64.b64decode(request["seed"]))
            fcntl.ioctl(random, RNDRESEEDCRNG)
        finally:
            os.close(random)
        return {}


if __name__ == "__main__":
    Agent(os.open(PORT, os.O_RDWR)).serve()
