"""The options that make a job, shared by `plan`, `apply` and `submit`, and the request that they stand for."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar, get_type_hints

import typer

from app.cli.config import ConfigFile, read_config
from app.cli.output import WrongUsage
from app.cli.sample_options import SampleOptions
from app.cli.samples import prepared_samples
from app.schemas.budget import MetricName
from app.schemas.certificate_request import CertificateRequest
from app.schemas.job_request import JobRequest, Objective
from app.schemas.labels import JobLabels
from app.schemas.parsing import merge
from app.schemas.weights import Granularity, Rounding

Model = Annotated[Path, typer.Argument(help="The network, an ONNX file.", exists=True, dir_okay=False)]
Data = Annotated[
    Path | None,
    typer.Option(
        help="Samples: arrays by input name, sample axis first, and optionally `labels` (.npz, .npy, HDF5, Parquet, "
        "Arrow, safetensors), or a folder of images or .npy files, a table or texts (docs/samples.md). Without it the "
        "service makes inputs itself and measures agreement with the float network.",
        exists=True,
    ),
]
MaxDrop = Annotated[
    float | None, typer.Option(help="Accuracy that may be spent, a fraction: 0.01 is one point.", show_default="0.01")
]
MetricOption = Annotated[MetricName | None, typer.Option(help="What accuracy means; by default what the data allow.")]
MetricGraph = Annotated[
    Path | None,
    typer.Option(
        help="Your own metric, an ONNX graph: it takes outputs and arrays of the data by their names, and gives one "
        "number for each sample.",
        exists=True,
        dir_okay=False,
    ),
]
Relative = Annotated[bool, typer.Option("--relative", help="--max-drop is a fraction of the float network's value.")]
Confidence = Annotated[
    float | None, typer.Option(help="The budget must hold for the upper end of the drop's interval at this level.")
]
ObjectiveOption = Annotated[Objective | None, typer.Option(help="What to make small.", show_default="size")]
Bits = Annotated[str | None, typer.Option(help="Widths that a weight may get: 2-8, or 2,4,8.", show_default="2-8")]
ActivationBits = Annotated[
    str | None, typer.Option(help="Widths that an activation may get: 8, or 4,8,16.", show_default="float32")
]
RoundingOption = Annotated[Rounding | None, typer.Option(help="How weights are rounded.", show_default="gptq")]
GranularityOption = Annotated[Granularity | None, typer.Option(help="What shares a scale.", show_default="channel")]
Formats = Annotated[
    list[str] | None,
    typer.Option(
        "--format",
        help="A format that a weight may get, in place of --bits, such as int4/block32 or codebook3/channel; may be "
        "given several times.",
    ),
]
Requantize = Annotated[
    bool, typer.Option("--requantize", help="Plan weights anew that the file has in codes of at most 16 bits.")
]
Keep = Annotated[list[str] | None, typer.Option(help="A layer that stays float32; may be given several times.")]
Deadline = Annotated[
    float | None, typer.Option(help="Seconds after which the best plan so far is taken.", show_default="none")
]
Opset = Annotated[
    int | None,
    typer.Option(
        help="Newest ONNX opset that the result may use, 18 to 25: an older one for an older runtime.",
        show_default="what the target takes",
    ),
]
BatchAxes = Annotated[
    list[str] | None,
    typer.Option(
        "--batch-axis",
        help="The axis of an input that samples lie along, where it is not found: state=1, or speed=none for an input "
        "that belongs to a whole call; may be given several times.",
    ),
]
Seed = Annotated[int | None, typer.Option(help="Of everything random.", show_default="0")]
Request = Annotated[
    Path | None,
    typer.Option(
        help="A JSON file with the request of the API, for everything else; options override it.",
        exists=True,
        dir_okay=False,
    ),
]


Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class BudgetOptions(SampleOptions):
    """Options of a job that measures; None: not given, so the request file or the service's default decides."""

    max_drop: MaxDrop = None
    metric: MetricOption = None
    metric_graph: MetricGraph = None
    relative: Relative = False
    confidence: Confidence = None
    batch_axis: BatchAxes = None
    seed: Seed = None
    request: Request = None
    config: ConfigFile = None

    CONFIGURED: ClassVar[Collection[str]] = tuple(CertificateRequest.model_fields)
    """Members of the configuration file that say something of such a job."""

    def body(self) -> dict[str, Any]:
        """The request's JSON, without the ids of the uploads.

        Raises:
            WrongUsage: a file or a width cannot be read; there are two metrics.
        """
        members = read_config(self.config).request
        return dict(merge({name: members[name] for name in members if name in self.CONFIGURED}, self.changes()))

    def changes(self) -> dict[str, Any]:
        """As `body`, without what the configuration file says: the request of a replan, whose job has said the rest."""
        return merged({} if self.request is None else read_object(self.request), self._given())

    def _given(self) -> dict[str, Any]:
        if self.metric is not None and self.metric_graph is not None:
            raise WrongUsage("--metric and --metric-graph say two things; give one of them")
        kind = "relative" if self.relative else None
        budget = {"max_drop": self.max_drop, "metric": self.metric, "kind": kind, "confidence": self.confidence}
        inputs = {name: {"batch_axis": axis} for name, axis in map(_batch_axis, self.batch_axis or [])}
        return {"budget": budget, "inputs": inputs, "seed": self.seed}


@dataclass(frozen=True, slots=True)
class AppliedOptions(BudgetOptions):
    """Options of a job that applies a plan."""

    rounding: RoundingOption = None
    requantize: Requantize = False
    opset: Opset = None

    CONFIGURED: ClassVar[Collection[str]] = ()  # what the job did that made the plan, the plan says

    def _given(self) -> dict[str, Any]:
        weights = {"rounding": self.rounding, "requantize": self.requantize or None}
        return BudgetOptions._given(self) | {"weights": weights, "opset": self.opset}


@dataclass(frozen=True, slots=True)
class JobOptions(AppliedOptions):
    """Options of a job that searches for its plan."""

    objective: ObjectiveOption = None
    bits: Bits = None
    activation_bits: ActivationBits = None
    granularity: GranularityOption = None
    formats: Formats = None
    keep: Keep = None
    deadline: Deadline = None

    CONFIGURED: ClassVar[Collection[str]] = (*JobRequest.model_fields, *JobLabels.model_fields)

    def _given(self) -> dict[str, Any]:
        given = AppliedOptions._given(self)
        bits = None if self.bits is None else parse_bits(self.bits)
        widths = None if self.activation_bits is None else parse_bits(self.activation_bits, option="--activation-bits")
        return given | {
            "weights": {
                **given["weights"],
                "bits": bits,
                "granularity": self.granularity,
                "formats": self.formats or None,
            },
            "activations": {"bits": widths},
            "search": {"deadline_seconds": self.deadline},
            "layers": {name: {"keep": True} for name in self.keep or ()},
            "objective": self.objective,
        }


def _batch_axis(text: str) -> tuple[str, int | None]:
    name, _, axis = text.rpartition("=")
    if not name or not (axis == "none" or axis.removeprefix("-").isdigit()):
        raise WrongUsage(f"--batch-axis takes an input and its axis, like state=1 or speed=none, got {text!r}")
    return name, None if axis == "none" else int(axis)


def merged(body: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """`body` with the members that are `given` in place of its own; None is not given."""
    members = {name: _members(value) if isinstance(value, Mapping) else value for name, value in given.items()}
    return dict(merge(body, _members(members)))


def _members(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if value is not None and value != {}}


def takes(**kinds: type[Any]) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """Give a command, in place of each of these parameters, one option for each field of its dataclass.

    A field that several of the dataclasses have is one option. Where options say how samples are made, the command gets
    the file that they were made into as its `data`.
    """

    def decorate(command: Callable[..., Result]) -> Callable[..., Result]:
        options = {name: _options_of(kind) for name, kind in kinds.items()}
        fields = {field for of_kind in options.values() for field in of_kind}

        def run(**values: Any) -> Result:
            made = {name: kind(**{field: values[field] for field in options[name]}) for name, kind in kinds.items()}
            rest = {name: value for name, value in values.items() if name not in fields}
            samples = next((given for given in made.values() if isinstance(given, SampleOptions)), None)
            if samples is None:
                return command(**made, **rest)
            seed = getattr(samples, "seed", None) or 0
            with prepared_samples(rest.get("data"), samples, rest.get("model"), seed) as data:
                return command(**made, **{name: data if name == "data" else value for name, value in rest.items()})

        parameters: dict[str, inspect.Parameter] = {}
        for name, parameter in inspect.signature(command, eval_str=True).parameters.items():
            for option in options[name].values() if name in options else [parameter]:
                parameters.setdefault(option.name, option.replace(kind=inspect.Parameter.KEYWORD_ONLY))
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        run.__annotations__ = {name: option.annotation for name, option in parameters.items()}
        # typer reads both, and makes the options from them
        run.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
        return run

    return decorate


def _options_of(kind: type[Any]) -> dict[str, inspect.Parameter]:
    """The fields of a dataclass as parameters; inherited ones are annotated with names of their own modules."""
    hints = get_type_hints(kind, include_extras=True)
    return {name: field.replace(annotation=hints[name]) for name, field in inspect.signature(kind).parameters.items()}


def parse_bits(text: str, option: str = "--bits") -> list[int]:
    """Widths from text like `2-8`, `2,4,8` or `2-4,8`.

    Raises:
        WrongUsage: the text is neither.
    """
    widths: list[int] = []
    try:
        for part in text.split(","):
            low, _, high = part.partition("-")
            widths.extend(range(int(low), int(high or low) + 1))
    except ValueError:
        widths = []
    if not widths:
        raise WrongUsage(f"{option} takes widths like 2-8 or 2,4,8, got {text!r}")
    return widths


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        WrongUsage: it holds something else.
    """
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise WrongUsage(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise WrongUsage(f"{path} must hold a JSON object, got {type(value).__name__}")
    return value
