"""The one catalogue of errors: a stable code, its HTTP status and its title.

The same codes appear in the API's answers and in failed jobs. `AppError` carries a code with a text that says what,
got, expected, remedy; `problem` writes either as RFC 9457 problem details.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PROBLEM_MEDIA_TYPE = "application/problem+json"


@dataclass(frozen=True, slots=True)
class ErrorClass:
    """What all errors of one code share."""

    status: int
    title: str

    def __post_init__(self) -> None:
        if not 400 <= self.status <= 599:
            raise ValueError(f"an error has a status from 400 to 599, got {self.status}")


CATALOGUE: Mapping[str, ErrorClass] = {
    # requests
    "request_invalid": ErrorClass(422, "The request is not valid"),
    "request_malformed": ErrorClass(400, "The request cannot be read"),
    "media_type_unsupported": ErrorClass(415, "This call does not accept the media type of the body"),
    "client_disconnected": ErrorClass(400, "The client hung up before the request was complete"),
    "request_too_slow": ErrorClass(408, "The request did not come in time"),
    "payload_too_large": ErrorClass(413, "The body is larger than this service accepts"),
    "range_unsatisfiable": ErrorClass(416, "The range lies behind the end"),
    "not_found": ErrorClass(404, "Not found"),
    "method_not_allowed": ErrorClass(405, "This address does not accept this method"),
    "key_missing": ErrorClass(401, "This call needs a key"),
    "key_invalid": ErrorClass(401, "The key is not valid"),
    "role_insufficient": ErrorClass(403, "The key may not do this"),
    "quota_exceeded": ErrorClass(429, "The project has used up a quota"),
    "origin_refused": ErrorClass(403, "Pages of other sites may not change anything here"),
    "host_refused": ErrorClass(421, "The service does not answer to this host name"),
    "upload_offset_mismatch": ErrorClass(409, "The upload goes on at another place"),
    "upload_finished": ErrorClass(403, "The upload is finished"),
    "upload_expired": ErrorClass(410, "The upload has expired"),
    "upload_protocol_unsupported": ErrorClass(412, "This version of the tus protocol is not supported"),
    "idempotency_mismatch": ErrorClass(422, "This Idempotency-Key was used with another request"),
    "budget_invalid": ErrorClass(422, "The accuracy budget is not valid"),
    "layers_unknown": ErrorClass(422, "The request names layers that the model does not have"),
    "constraint_impossible": ErrorClass(422, "No plan can meet the constraints"),
    # states
    "job_not_finished": ErrorClass(409, "The job has not finished yet"),
    "job_finished": ErrorClass(409, "The job has already finished"),
    "in_use": ErrorClass(409, "A job that has not ended needs it"),
    "replan_not_applicable": ErrorClass(409, "The job made no plan that could be made anew"),
    "webhook_limit_reached": ErrorClass(409, "The project has as many webhooks as it may have"),
    "artifact_missing": ErrorClass(404, "The job has no such result"),
    "report_unavailable": ErrorClass(503, "The report cannot be drawn now"),
    "database_unavailable": ErrorClass(503, "The database does not answer"),
    "not_ready": ErrorClass(503, "The service is not ready"),
    "storage_unavailable": ErrorClass(503, "The storage of contents does not answer"),
    "connections_exhausted": ErrorClass(503, "Too many connections are open"),
    "storage_full": ErrorClass(507, "The disk of the service is full"),
    # models (network/errors.py)
    "model_invalid": ErrorClass(422, "The model is not valid ONNX"),
    "model_not_taken": ErrorClass(422, "The model is valid ONNX, but of a kind that this service does not take"),
    "model_not_runnable": ErrorClass(422, "ONNX Runtime does not run the model"),
    "model_too_new": ErrorClass(422, "The model is of a newer version of ONNX than this service runs"),
    "model_not_onnx": ErrorClass(422, "The file is not an ONNX model"),
    "model_too_large": ErrorClass(413, "The model is larger than this service accepts"),
    "model_too_much_work": ErrorClass(422, "The model takes more work than files of its size may"),
    "model_external_data": ErrorClass(422, "The model keeps weights outside its file"),
    "model_random_operators": ErrorClass(422, "The model draws random numbers"),
    "model_training_mode": ErrorClass(422, "The model is in training mode"),
    "model_custom_operators": ErrorClass(422, "The model uses operators that neither ONNX nor ONNX Runtime defines"),
    "model_unsupported_operators": ErrorClass(422, "The model uses unsupported operators"),
    "model_weights_not_finite": ErrorClass(422, "The model has weights that are not finite"),
    "model_shapes_not_fixed": ErrorClass(422, "The model has shapes that are not fixed"),
    "model_batch_axis_unknown": ErrorClass(422, "It is not known which axis of an input holds the samples"),
    "model_samples_mixed": ErrorClass(422, "Samples that share a call change each other's outputs"),
    "model_nothing_to_quantize": ErrorClass(422, "The model has no weight that can be quantized"),
    "model_not_reproduced": ErrorClass(422, "The model cannot be converted without changing its outputs"),
    "opset_not_reachable": ErrorClass(422, "The model cannot be converted to the requested opset"),
    "interface_differs": ErrorClass(422, "The quantized file does not take or give what the float model does"),
    # datasets
    "dataset_invalid": ErrorClass(422, "The data cannot be read"),
    "dataset_wrong_names": ErrorClass(422, "The arrays do not have the names of the model's inputs"),
    "dataset_sample_counts": ErrorClass(422, "The arrays do not have the same number of samples"),
    "dataset_shape_mismatch": ErrorClass(422, "The arrays do not have the shapes of the model's inputs"),
    "dataset_not_finite": ErrorClass(422, "The data hold values that are not finite"),
    "dataset_labels_out_of_range": ErrorClass(422, "The labels do not fit the model's classes"),
    "dataset_too_few_samples": ErrorClass(422, "The data hold too few samples"),
    "dataset_too_large": ErrorClass(413, "The data are larger than this service accepts"),
    # plans (planner/errors.py) and files (quantization/errors.py)
    "plan_invalid": ErrorClass(422, "The plan is not valid"),
    "plan_problem_invalid": ErrorClass(500, "The service built an invalid planning problem"),
    "plan_limit_unreachable": ErrorClass(422, "No plan stays below the limit"),
    "sensitivity_not_applicable": ErrorClass(422, "The sensitivity method does not cover this network"),
    "plan_solver_not_applicable": ErrorClass(422, "The search method does not apply to this problem"),
    "latency_table_invalid": ErrorClass(422, "The table of latencies does not fit the model"),
    "quantization_invalid": ErrorClass(422, "The model cannot be quantized as requested"),
    "calibration_activations_not_finite": ErrorClass(422, "The model gives values that are not finite for these data"),
    "export_too_large": ErrorClass(422, "The quantized file would be larger than ONNX allows"),
    "quantized_file_invalid": ErrorClass(500, "The quantized file does not match the plan"),
    "quantized_file_not_runnable": ErrorClass(422, "ONNX Runtime does not load the quantized file"),
    "metric_not_applicable": ErrorClass(422, "The metric does not fit the model or the data"),
    "metric_graph_invalid": ErrorClass(422, "The metric graph is not valid"),
    # jobs
    "out_of_memory": ErrorClass(507, "The job needs more memory than its worker may use"),
    "time_limit": ErrorClass(504, "The job took longer than allowed"),
    "worker_lost": ErrorClass(500, "The job lost its worker too often"),
    "internal": ErrorClass(500, "Internal error"),
}


class AppError(Exception):
    """An error with a code of the catalogue and a text for the person who reads it.

    `extra` holds further members of the problem object, e.g. `errors`, one entry per wrong field; `headers` those of
    the HTTP answer, e.g. `Retry-After`.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        extra: Mapping[str, Any] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        if code not in CATALOGUE:
            raise ValueError(f"no error has the code {code!r}; add it to the catalogue in app/errors.py")
        super().__init__(code, detail, extra)
        self.code = code
        self.detail = detail
        self.extra: Mapping[str, Any] = extra or {}
        self.headers = headers

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"


def problem(
    code: str, detail: str, *, instance: str | None = None, extra: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The problem object (RFC 9457) of an error.

    A code that the catalogue does not know (a row written by a newer version) is shown as it is, with the class of
    `internal`.
    """
    known = CATALOGUE.get(code, CATALOGUE["internal"])
    members: dict[str, Any] = {
        "type": f"urn:bitbudget:error:{code}",
        "title": known.title,
        "status": known.status,
        "detail": detail,
        "code": code,
    }
    if instance is not None:
        members["instance"] = instance
    return members | dict(extra or {})
