"""What a report is made of: the documents that a job leaves behind, as they were downloaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from report.contents import DOCUMENTS

Document = Mapping[str, Any]

FLOAT_BITS = 32


@dataclass(frozen=True)
class Documents:
    """The documents of one job; what a job does not have is None.

    A job that applied a plan has neither frontier nor sensitivity; one that certified a quantized file has a
    certificate in place of a plan; one of an earlier release has no samples.

    Args:
        plan: `plan.json`.
        frontier: `frontier.json`.
        sensitivity: `sensitivity.json`.
        samples: `samples.json`.
        certificate: `certificate.json`.
        compared: for a chart of several jobs, `jobs` with the `name` and the `frontier` of each, or None.
        stage_seconds: what each stage took, by name, in their order.
        job: what is known of the job itself: `id`, `name`, `model_name`, `dataset_name`, `created_at`, `finished_at`.
    """

    plan: Document | None = None
    frontier: Document | None = None
    sensitivity: Document | None = None
    samples: Document | None = None
    certificate: Document | None = None
    compared: Document | None = None
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
    job: Document = field(default_factory=dict)

    @classmethod
    def of_folder(cls, folder: str | Path) -> Documents:
        """The documents in the folder that `bitbudget plan`, `apply`, `certify` or `download` wrote.

        Raises:
            ValueError: a file is not JSON.
        """
        paths = {kind: Path(folder, f"{kind}.json") for kind in DOCUMENTS}
        return cls(**{kind: json.loads(path.read_bytes()) for kind, path in paths.items() if path.is_file()})

    @classmethod
    def of_artifacts(cls, artifacts: Mapping[str, bytes]) -> Documents:
        """The documents of a `JobResult`, from its `artifacts`."""
        return cls(**{kind: json.loads(artifacts[kind]) for kind in DOCUMENTS if kind in artifacts})

    @property
    def main(self) -> Document:
        """The plan, or what was certified: both say outcome, sizes, digests, request and certificate.

        Raises:
            ValueError: there is neither.
        """
        document = self.plan if self.plan is not None else self.certificate
        if document is None:
            raise ValueError(
                "a report needs the plan or the certificate of a job, got neither; give plan.json or certificate.json"
            )
        return document

    @property
    def measured(self) -> Document:
        """The certificate: what was measured on held-out samples."""
        certificate: Document = self.main["certificate"]
        return certificate

    @property
    def layers(self) -> list[Document]:
        """The rows of the plan, in graph order; none where a file was certified."""
        return [] if self.plan is None else list(self.plan["layers"])
