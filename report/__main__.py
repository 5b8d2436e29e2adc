"""The process that draws, for a service that must not wait for it: requests on standard input, files on its output.

A request is a line of JSON, `{"file", "theme", "stage_seconds", "job", "documents": {kind: bytes}}` with their values,
and then the documents in that order. The answer is a line `{"bytes": n}` and the file, or `{"missing": reason}`. The
process ends when its input does, or when nothing was asked for `IDLE_SECONDS`: it holds some 200 MB.
"""

from __future__ import annotations

import argparse
import json
import resource
import select
import sys
from io import RawIOBase
from typing import BinaryIO

from report.documents import Documents
from report.files import Missing, make

IDLE_SECONDS = 60.0


def serve(requests: RawIOBase, answers: BinaryIO, idle_seconds: float = IDLE_SECONDS) -> None:
    """Answer requests until there are no more.

    Args:
        requests: not buffered: what was read ahead would not be seen by `select`.
    """
    while select.select([requests], [], [], idle_seconds)[0] and (line := requests.readline()):
        asked = json.loads(line)
        documents = {kind: json.loads(_exactly(requests, count)) for kind, count in asked["documents"].items()}
        try:
            given = Documents(**documents, stage_seconds=asked["stage_seconds"], job=asked["job"])
            made = make(asked["file"], given, asked["theme"])
            answers.write(json.dumps({"bytes": len(made)}).encode() + b"\n" + made)
        except Missing as missing:
            answers.write(json.dumps({"missing": str(missing)}).encode() + b"\n")
        answers.flush()


def _exactly(stream: RawIOBase, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        piece = stream.read(count - len(data))
        if not piece:
            raise EOFError(f"the request ends after {len(data)} bytes of a document of {count}")
        data += piece
    return bytes(data)


def main() -> None:
    """Serve standard input."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memory-bytes", type=int, help="memory that this process may write to")
    limit = parser.parse_args().memory_bytes
    if limit is not None:  # not RLIMIT_AS: an engine for JavaScript reserves many gigabytes of addresses
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # what it draws is somebody's model and samples
    with open(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as given:
        serve(given, sys.stdout.buffer)


if __name__ == "__main__":
    main()
