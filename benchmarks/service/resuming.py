"""An upload whose connection is cut again and again: how much of it is sent twice.

python -m benchmarks.service.resuming
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import socket
import struct
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.api.resumable import PIECE_BYTES
from benchmarks.service.team import running_team
from bitbudget_client import Client

CUTS = 50
_OFFSET = re.compile(rb"\r\nupload-offset: (\d+)\r\n", re.IGNORECASE)
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass
class CuttingProxy:
    """A line to the server at `port` that breaks `cuts` times while a PATCH is on it, each time after another number of
    bytes up to `most_bytes`."""

    port: int
    cuts: int
    most_bytes: int
    sent: list[tuple[int, int]] = field(default_factory=list)
    """Of each PATCH the offset, and the bytes of its body that went over the line."""
    address: str = ""
    _random: random.Random = field(default_factory=lambda: random.Random(7))

    def resent_bytes(self) -> list[int]:
        """Of each cut, what had gone over the line before and went again."""
        return [max(0, at + size - after) for (at, size), (after, _) in zip(self.sent, self.sent[1:], strict=False)]

    def serve(self, listener: socket.socket) -> None:
        with suppress(OSError):  # closed: the end
            while True:
                client, _ = listener.accept()
                threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        server = socket.create_connection(("127.0.0.1", self.port))
        threading.Thread(target=_pump, args=(server, client), daemon=True).start()
        with client, server, suppress(OSError):
            pending = b""
            while data := client.recv(65536):
                pending += data
                # Only PATCH has a body here.
                while (end := pending.find(b"\r\n\r\n")) >= 0:
                    head, pending = pending[: end + 4], pending[end + 4 :]
                    server.sendall(head)
                    if head.startswith(b"PATCH"):
                        self._body(client, server, head, pending)
                        pending = b""

    def _body(self, client: socket.socket, server: socket.socket, head: bytes, pending: bytes) -> None:
        offset = _OFFSET.search(head)
        assert offset is not None
        number = len(self.sent)
        self.sent.append((int(offset[1]), 0))
        until = self._random.randrange(65536, self.most_bytes) if number < self.cuts else None
        passed = 0
        while pending or (pending := client.recv(65536)):
            part = pending if until is None else pending[: until - passed]
            server.sendall(part)
            passed += len(part)
            self.sent[number] = (self.sent[number][0], passed)
            pending = b""
            if passed == until:
                for side in (client, server):
                    side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
                raise ConnectionAbortedError


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)


@contextmanager
def cutting_proxy(port: int, cuts: int, most_bytes: int) -> Iterator[CuttingProxy]:
    """The proxy, listening at its `address`."""
    proxy = CuttingProxy(port, cuts, most_bytes)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy.address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        threading.Thread(target=proxy.serve, args=(listener,), daemon=True).start()
        yield proxy
        listener.shutdown(socket.SHUT_RDWR)


def cut_upload(port: int, cuts: int, size_bytes: int) -> dict[str, Any]:
    """Upload so many bytes through a line that is cut so often, by the client that commands use."""
    contents = os.urandom(size_bytes)
    with tempfile.TemporaryDirectory(prefix="bitbudget-") as folder:
        path = Path(folder) / "model"
        path.write_bytes(contents)
        with (
            cutting_proxy(port, cuts, size_bytes // cuts) as proxy,
            Client(proxy.address, pieces_from_bytes=1) as client,
        ):
            upload_id = client.upload_model(path).id
    resent = proxy.resent_bytes()
    return {
        "upload_cut_50_times_resent_bytes": max(resent),
        "upload_cut_resent_bytes_in_all": sum(resent),
        "upload_cuts": len(resent),
        "upload_chunk_bytes": PIECE_BYTES,
        "upload_is_whole": upload_id == hashlib.sha256(contents).hexdigest(),
    }


def resent(cuts: int = CUTS) -> dict[str, Any]:
    """Bytes that go over the line twice for each cut, the most of all cuts, on a service of its own."""
    with (
        tempfile.TemporaryDirectory(prefix="bitbudget-") as folder,
        running_team(Path(folder) / "team", workers=1) as team,
    ):
        return cut_upload(int(team.url.rpartition(":")[2]), cuts, 2 * 1024**2 * cuts)


if __name__ == "__main__":
    print(json.dumps(resent()))
