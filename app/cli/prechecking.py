"""Whether the samples fit the model, before anything starts that takes long."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from app.cli.output import Refused
from app.errors import CATALOGUE


def refuse_mismatch(model: Path, data: Path | None, own_metric: bool) -> None:
    """Refuse samples whose names, shapes or number do not fit the inputs of the model.

    Raises:
        Refused: says what does not fit.
    """
    if data is None:
        return
    command = [sys.executable, "-P", "-m", "pipeline.precheck", str(model), str(data)]
    # in a process of its own: these commands load no library that reads networks
    done = subprocess.run(  # noqa: S603 - our own command line
        [*command, *(["--own-metric"] * own_metric)], capture_output=True, text=True, check=False
    )
    problem = json.loads(done.stdout) if done.returncode == 0 else None  # what stopped it, the job will say
    if problem is not None:
        raise Refused(problem["detail"], title=CATALOGUE[problem["code"]].title, code=problem["code"])
