"""The options that say how files are made into samples, where `--data` is not a file of arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from app.cli.output import Refused

IMAGES = "Samples from images: what is done to them"
ROWS = "Samples from tables and texts"
FILES = "Samples from files"
PAIR = 2

Number = TypeVar("Number", int, float)

Size = Annotated[str | None, typer.Option(help="Height and width in the end: 224, or 224x192.", rich_help_panel=IMAGES)]
Resize = Annotated[
    str | None,
    typer.Option(help="Before the crop: the shorter side, 256, or height and width, 256x256.", rich_help_panel=IMAGES),
]
Crop = Annotated[
    str | None,
    typer.Option(help="center: cut --size out of the middle; none: stretch to it.", rich_help_panel=IMAGES),
]
Mean = Annotated[
    str | None, typer.Option(help="Subtracted, for each channel: 0.485,0.456,0.406.", rich_help_panel=IMAGES)
]
Std = Annotated[str | None, typer.Option(help="Divided by at last: 0.229,0.224,0.225.", rich_help_panel=IMAGES)]
Scale = Annotated[
    float | None, typer.Option(help="What pixels of 0 to 255 are divided by: 255.", rich_help_panel=IMAGES)
]
Layout = Annotated[str | None, typer.Option(help="nchw or nhwc.", rich_help_panel=IMAGES)]
Channels = Annotated[str | None, typer.Option(help="rgb, bgr or gray.", rich_help_panel=IMAGES)]
Interpolation = Annotated[
    str | None,
    typer.Option(help="How images are resized.", show_default="bilinear", rich_help_panel=IMAGES),
]
Dtype = Annotated[
    str | None,
    typer.Option(help="float32, float16, or uint8 for raw pixels.", show_default="float32", rich_help_panel=IMAGES),
]
Preprocessor = Annotated[
    Path | None,
    typer.Option(
        help="A preprocessor_config.json, which states all this; options override it.",
        exists=True,
        rich_help_panel=IMAGES,
    ),
]
Tokenizer = Annotated[
    Path | None,
    typer.Option(help="The tokenizer.json that the network was trained with.", exists=True, rich_help_panel=ROWS),
]
MaxLength = Annotated[int | None, typer.Option(help="Tokens of every text: cut or filled up to.", rich_help_panel=ROWS)]
TextColumns = Annotated[
    list[str] | None,
    typer.Option("--text-column", help="The column of the texts; twice for pairs.", rich_help_panel=ROWS),
]
LabelColumn = Annotated[str | None, typer.Option(help="The column of the classes.", rich_help_panel=ROWS)]
TargetColumns = Annotated[
    list[str] | None,
    typer.Option("--target-column", help="A column of values to be predicted.", rich_help_panel=ROWS),
]
Columns = Annotated[
    list[str] | None,
    typer.Option("--column", help="A column that the network reads.", show_default="all others", rich_help_panel=ROWS),
]
TableForm = Annotated[
    str | None,
    typer.Option(
        "--table",
        help="matrix: all columns are one input; columns: each is one.",
        show_default="matrix",
        rich_help_panel=ROWS,
    ),
]
InputNames = Annotated[
    list[str] | None,
    typer.Option("--input", help="What an input is called, where the files do not say it.", rich_help_panel=FILES),
]
Classes = Annotated[
    Path | None,
    typer.Option(
        help="A file with the name of a class on each line, in the network's order.",
        exists=True,
        dir_okay=False,
        rich_help_panel=FILES,
    ),
]
Limit = Annotated[
    int | None, typer.Option(help="Take so many samples, by the seed.", show_default="all", rich_help_panel=FILES)
]


@dataclass(frozen=True, slots=True)
class SampleOptions:
    """Options on the making of samples; None: not given."""

    size: Size = None
    resize: Resize = None
    crop: Crop = None
    mean: Mean = None
    std: Std = None
    scale: Scale = None
    layout: Layout = None
    channels: Channels = None
    interpolation: Interpolation = None
    dtype: Dtype = None
    preprocessor: Preprocessor = None
    tokenizer: Tokenizer = None
    max_length: MaxLength = None
    text_columns: TextColumns = None
    label_column: LabelColumn = None
    target_columns: TargetColumns = None
    columns: Columns = None
    table: TableForm = None
    input_names: InputNames = None
    classes: Classes = None
    limit: Limit = None

    def preparation(self) -> dict[str, Any]:
        """What was given, as members of `bitbudget_client.samples.SampleOptions`.

        Raises:
            Refused: numbers that cannot be read.
        """
        read: dict[str, Callable[[Any], Any]] = {
            "size": lambda text: _both(_numbers("--size", text, "x", int)),
            "resize": lambda text: _one_or_both(_numbers("--resize", text, "x", int)),
            "mean": lambda text: _numbers("--mean", text, ",", float),
            "std": lambda text: _numbers("--std", text, ",", float),
            **dict.fromkeys(("preprocessor", "tokenizer", "classes"), str),
        }
        names = [field.name for field in fields(SampleOptions)]
        given = {name: getattr(self, name) for name in names if getattr(self, name) not in (None, [])}
        return {name: read.get(name, lambda value: value)(value) for name, value in given.items()}


def _numbers(option: str, text: str, separator: str, kind: type[Number]) -> list[Number]:
    try:
        numbers = [kind(part) for part in text.lower().split(separator)]
    except ValueError:
        numbers = []
    wrong = kind is int and (len(numbers) > PAIR or any(number < 1 for number in numbers))
    if not numbers or wrong:
        example = "224 or 224x192" if kind is int else "0.5 or 0.485,0.456,0.406"
        raise Refused(f"{option} takes numbers like {example}, got {text!r}")
    return numbers


def _both(lengths: list[int]) -> list[int]:
    return lengths * 2 if len(lengths) == 1 else lengths


def _one_or_both(lengths: list[int]) -> int | list[int]:
    return lengths[0] if len(lengths) == 1 else lengths
