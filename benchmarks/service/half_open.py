"""A service to which many clients have sent half a request: how long /healthz takes for a new client.

python -m benchmarks.service.half_open

The crowd is stubborn: whoever is let go connects again some seconds later. It has one address, like a proxy.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from heapq import heappop, heappush
from pathlib import Path
from random import Random

from app.http.server import raised_file_limit

CONNECTIONS = 1100
LOOKS = 200
PAUSE_SECONDS = 0.01
PATIENCE_SECONDS = 60.0
RETURN_SECONDS = (5.0, 15.0)
"""Between these whoever was let go connects again; the usual tools for such attacks wait for 15 s."""
HEAD = b"PUT /v1/models HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"
HALVES = (b"GET /healthz HTTP/1.1\r\nHo", HEAD + b"x" * 1000)
"""What the crowd says in turn, and then nothing more: half a head, and a head with the beginning of a body."""
LOOK = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def healthz_under_half_open(connections: int = CONNECTIONS, looks: int = LOOKS) -> dict[str, float]:
    """Ask for /healthz again and again, each time on a new connection, with so many half-open ones.

    Returns:
        for a service with the default settings, and for one that keeps them all (`_held`): the 95th percentile of the
        milliseconds, how many asked in vain, how many half-open connections there were in the end, and what was logged;
        and how long the very first one took, which came right behind the whole crowd.
    """
    raised_file_limit()
    name = f"healthz_p95_ms_under_{connections}_half_open"
    room = str(2 * connections)
    holding = {"BITBUDGET_MAX_CONNECTIONS": room, "BITBUDGET_MAX_CONNECTIONS_PER_ADDRESS": room}
    holding |= {"BITBUDGET_HEADER_SECONDS": "3600", "BITBUDGET_STALL_SECONDS": "3600"}
    figures: dict[str, float] = {}
    for end, settings in (("", {}), ("_held", holding)):
        with tempfile.TemporaryDirectory(prefix="bitbudget-") as folder, _server(Path(folder), settings) as port:
            before = (Path(folder) / "log").stat().st_size
            with Crowd(port, connections) as crowd:
                # The crowd came all at once, and is before this one in the queue: no figure of what follows.
                figures["healthz_first_ms" + end] = round(_look(port) or math.inf, 1)
                times = [_look(port) for _ in range(looks)]
                answered = sorted(milliseconds for milliseconds in times if milliseconds is not None)
                figures[name + end] = round(statistics.quantiles(answered, n=20)[-1], 1)
                figures["healthz_failures" + end] = len(times) - len(answered)
                figures["half_open" + (end or "_kept")] = crowd.open
            figures["half_open_log_bytes" + end] = (Path(folder) / "log").stat().st_size - before
    return figures


class Crowd:
    """Clients that hold half a request each; whoever is let go comes again. Begins when each has connected once."""

    def __init__(self, port: int, size: int) -> None:
        self._port, self._size = port, size
        self._selector = selectors.DefaultSelector()
        self._stopping, self._complete = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="crowd", daemon=True)
        self._away: list[tuple[float, int]] = []
        self._random = Random(0)

    def __enter__(self) -> Crowd:
        self._thread.start()
        self._complete.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr] # sockets only
        self._selector.close()

    @property
    def open(self) -> int:
        """Connections that the server keeps at the moment, as far as their clients know."""
        return len(self._selector.get_map())

    def _run(self) -> None:
        for number in range(self._size):
            self._connect(number)
        self._complete.set()
        while not self._stopping.is_set():
            for key, _ in self._selector.select(timeout=0.1):
                if self._let_go(key.fileobj):
                    heappush(self._away, (time.monotonic() + self._random.uniform(*RETURN_SECONDS), key.data))
            while self._away and self._away[0][0] <= time.monotonic():
                self._connect(heappop(self._away)[1])

    def _connect(self, number: int) -> None:
        client = socket.create_connection(("127.0.0.1", self._port))
        with contextlib.suppress(ConnectionError):
            client.sendall(HALVES[number % len(HALVES)])
        client.setblocking(False)
        self._selector.register(client, selectors.EVENT_READ, number)

    def _let_go(self, client: socket.socket) -> bool:
        try:
            if client.recv(65536):
                return False  # the reason; the end comes after it
        except BlockingIOError:
            return False
        except ConnectionError:
            pass
        self._selector.unregister(client)
        client.close()
        return True


def _look(port: int) -> float | None:
    """Milliseconds until /healthz has answered; None if it has not."""
    time.sleep(PAUSE_SECONDS)
    began = time.perf_counter()
    answer = b""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS) as client:
            client.sendall(LOOK)
            while part := client.recv(65536):
                answer += part
    except OSError:
        return None
    return 1000 * (time.perf_counter() - began) if answer.endswith(b'{"status":"ok"}') else None


@contextmanager
def _server(home: Path, settings: Mapping[str, str]) -> Iterator[int]:
    """`bitbudget serve` without a worker, on SQLite; yields its port."""
    port_file = home / "port"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BITBUDGET_")}
    environment |= {"BITBUDGET_HOME": str(home), **settings}
    program = str(Path(sys.executable).with_name("bitbudget"))
    command = [program, "serve", "--no-worker", "--port", "0", "--port-file", str(port_file)]
    with (home / "log").open("wb") as log, subprocess.Popen(command, env=environment, stdout=log, stderr=log) as server:
        try:
            while not port_file.exists():
                if server.poll() is not None:
                    raise RuntimeError(f"the server ended: {(home / 'log').read_text()}")
                time.sleep(0.02)
            yield int(port_file.read_text())
        finally:
            server.terminate()


if __name__ == "__main__":
    print(json.dumps(healthz_under_half_open()))
