"""A server that speaks the protocol of S3: a process of its own, and one bucket for each test."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

_ADDRESS = re.compile(r"Running on (http://\S+)")
_SPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"


@contextmanager
def running_s3() -> Iterator[str]:
    """Yields the server's address."""
    command = [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", "0"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if found := _ADDRESS.search(line):
                    break
            else:
                raise RuntimeError("the S3 server did not start")
            # Its log of requests has to go somewhere, or it would stand still once the pipe is full.
            with subprocess.Popen(["cat"], stdin=process.stderr, stdout=subprocess.DEVNULL) as drain:
                yield found[1]
                process.terminate()
                drain.wait()
        finally:
            process.terminate()


def keys_of(endpoint: str, bucket: str) -> list[str]:
    """What lies in the bucket."""
    answer = httpx.get(f"{endpoint}/{bucket}?list-type=2")
    answer.raise_for_status()
    return [str(key.text) for key in ET.fromstring(answer.text).iter(f"{_SPACE}Key")]
