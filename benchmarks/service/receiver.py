"""A receiver of webhooks that is as bad as they come: it refuses, hangs and dies, each by chance.

    python -m benchmarks.service.receiver PORT SECRET TAKEN SEED

What it takes it appends to the file TAKEN, a line `JOB EVENT` each, before it answers. It prints a line for every
message that comes in; standard output has to be a file.
"""

from __future__ import annotations

import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from typing import Any

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

REFUSES, HANGS, DIES_BEFORE, DIES_AFTER = 0.15, 0.05, 0.02, 0.02
FORGED = "forged"


def serve(port: int, secret: str, taken: Path, seed: int) -> None:
    # Another series after each death, or it would die of the same message again and again.
    random, lock = Random(f"{seed}/{os.fstat(sys.stdout.fileno()).st_size}"), threading.Lock()
    file = os.open(taken, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def take(line: str) -> None:
        os.write(file, f"{line}\n".encode())

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            print("received", flush=True)
            with lock:
                luck = random.random()
            try:
                data = Webhook(secret).verify(body, dict(self.headers.items()))["data"]
            except WebhookVerificationError:
                take(FORGED)
                self._answer(403)
                return
            for share, act in ((REFUSES, self._refuse), (HANGS, self._hang), (DIES_BEFORE, self._die)):
                if luck < share:
                    act()
                    return
                luck -= share
            take(f"{data['id']} {data['event']}")
            if luck < DIES_AFTER:
                self._die()
            self._answer(204)

        def _answer(self, status: int) -> None:
            self.send_response(status)
            self.end_headers()

        def _refuse(self) -> None:
            self._answer(500)

        def _hang(self) -> None:
            self.connection.recv(1)  # until the sender has had enough

        def _die(self) -> None:
            os._exit(1)

        def log_message(self, *_arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        server.serve_forever()


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
