"""Whether the samples fit the model, before anything starts that takes long."""

from __future__ import annotations

from pathlib import Path

from app.cli.output import Refused
from app.cli.samples import in_a_process
from app.errors import CATALOGUE


def refuse_mismatch(model: Path, data: Path | None, own_metric: bool) -> None:
    """Refuse samples whose names, shapes or number do not fit the inputs of the model.

    Raises:
        Refused: says what does not fit.
    """
    if data is None:
        return
    try:
        problem = in_a_process("pipeline.precheck", str(model), str(data), *(["--own-metric"] * own_metric))
    except Refused:  # it could not look: the job will say what is wrong
        return
    if problem is not None:
        raise Refused(problem["detail"], title=CATALOGUE[problem["code"]].title, code=problem["code"])
