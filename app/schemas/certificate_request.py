"""The request of a certificate: a quantized file of anybody's making against its float model."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from app.schemas.budget import Budget, OutputBudgets, Sha256, check_budgets, needs_labels
from app.schemas.inputs import Inputs
from app.schemas.strict import Strict, refuse


class CertificateRequest(Strict):
    """What to certify. Every field but the ids of the two files has a default."""

    model_id: Sha256 = Field(description="Digest of the uploaded float model.")
    quantized_id: Sha256 = Field(description="Digest of the quantized file, uploaded as a model.")
    dataset_id: Sha256 | None = Field(
        default=None, description="Digest of an uploaded dataset; null: inputs are made from the graph's shapes."
    )
    inputs: Inputs = Field(
        default={}, description="Which axis holds the samples, of inputs where that is to be stated, by input name."
    )
    budget: Budget = Budget()
    outputs: OutputBudgets = Field(
        default={}, description="By which metric single outputs are measured, and how much they may lose, by name."
    )
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    @property
    def uploads(self) -> dict[str, str]:
        """The digests of the uploads that the job reads, by what they are to it."""
        given = {
            "model": self.model_id,
            "quantized": self.quantized_id,
            "dataset": self.dataset_id,
            "metric": self.budget.metric_id,
        }
        return {kind: digest for kind, digest in given.items() if digest is not None}

    @model_validator(mode="after")
    def _labels_come_with_data(self) -> Self:
        check_budgets(self.budget, self.outputs)
        metric = needs_labels(self.budget, self.outputs)
        if metric is not None and self.dataset_id is None:
            refuse(
                "budget_invalid",
                f"the metric {metric} needs labels, and the request names no dataset; upload one with "
                "PUT /v1/datasets and give its id as dataset_id, or take agreement, kl or explained",
            )
        return self


FROM_ELSEWHERE = ("model_id", "quantized_id", "dataset_id")
"""Fields that a multipart request takes from its parts."""
