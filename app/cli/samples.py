"""Samples for the commands: files of arrays as they are, others made into arrays in a process that loads numpy."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from app.cli.output import PROGRESS, Refused, plain
from app.cli.sample_options import SampleOptions

_PREPARED = frozenset({".csv", ".tsv", ".jsonl", ".txt"})
_CALLED = {
    "text_columns": "text-column",
    "target_columns": "target-column",
    "columns": "column",
    "input_names": "input",
}


@contextmanager
def prepared_samples(
    data: Path | None, given: SampleOptions, model: Path | None, seed: int = 0
) -> Iterator[Path | None]:
    """A file of arrays with the samples in `data`, as long as the block runs; what was done to them is told.

    Raises:
        Refused: they cannot be made into samples so, or they are arrays, which are not changed.
    """
    asked = given.preparation()
    if data is None or not (data.is_dir() or data.suffix.lower() in _PREPARED):
        if asked:
            names = ", ".join(f"--{_CALLED.get(name, name.replace('_', '-'))}" for name in asked)
            what = "there is no --data" if data is None else f"{data.name} is a file of arrays, which is taken as it is"
            raise Refused(f"{names}: says how images, tables or texts are made into samples, and {what}; leave it out")
        yield data
        return
    if "tokenizer" in asked and "input_names" not in asked and model is not None:
        asked["input_names"] = _inputs_of(model)
    with tempfile.TemporaryDirectory(prefix="bitbudget-") as folder:
        target = Path(folder) / f"{data.name.removesuffix(data.suffix)}.npz"
        made = in_a_process("bitbudget_client.samples", str(data), str(target), json.dumps({**asked, "seed": seed}))
        for note in made["notes"]:
            PROGRESS.print(plain(note), style="dim", highlight=False, soft_wrap=True)
        yield target


def in_a_process(module: str, *arguments: str) -> Any:
    """The JSON that a module of ours writes: these commands load no library that reads arrays or networks.

    Raises:
        Refused: its last line of errors, where it fails.
    """
    command = [sys.executable, "-P", "-m", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command line
    if done.returncode:
        raise Refused((done.stderr.strip().splitlines() or [f"{module} failed"])[-1])
    return json.loads(done.stdout)


def _inputs_of(model: Path) -> list[str]:
    """The inputs of the network; none where it cannot be read, of which the job says more."""
    try:
        described = in_a_process("pipeline.describing", "model", str(model))
    except Refused:
        return []
    return [spec["name"] for spec in described["inputs"]]
