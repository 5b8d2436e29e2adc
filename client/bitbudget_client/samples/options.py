"""How files are made into samples. Whatever changes a value is stated, here or in a file of the network's own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bitbudget_client.samples.refusal import SamplesRefused

LAYOUTS = ("nchw", "nhwc")
CHANNELS = ("rgb", "bgr", "gray")
CROPS = ("center", "none")
DTYPES = ("float32", "float16", "uint8")
TABLES = ("matrix", "columns")


@dataclass(frozen=True)
class SampleOptions:
    """What was stated; None: nothing was. Options of other kinds of files than those that are read do nothing.

    Raises:
        SamplesRefused: a value that there is not.
    """

    # images
    size: tuple[int, int] | None = None
    """Height and width of every image in the end."""
    resize: tuple[int, int] | int | None = None
    """Before the crop: the length of the shorter side, or height and width."""
    crop: str | None = None
    """`center` cuts `size` out of the middle; `none` stretches the image to it."""
    mean: tuple[float, ...] | None = None
    """Subtracted after the division, for each channel or one for all."""
    std: tuple[float, ...] | None = None
    """Divided by at last."""
    scale: float | None = None
    """What pixels of 0 to 255 are divided by."""
    layout: str | None = None
    channels: str | None = None
    interpolation: str = "bilinear"
    dtype: str = "float32"
    preprocessor: Path | None = None
    """A `preprocessor_config.json`, or the folder that has one: what it says holds where nothing else is stated."""

    # texts and tables
    tokenizer: Path | None = None
    """A `tokenizer.json`, or the folder that has one."""
    max_length: int | None = None
    """Tokens of every text: longer ones are cut, shorter ones filled up."""
    text_columns: tuple[str, ...] = ()
    """One, or two for pairs of texts."""
    label_column: str | None = None
    target_columns: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    """The numbers that the network reads; by default all that are not labels or targets."""
    table: str = "matrix"
    """`matrix`: all columns are one input; `columns`: each is an input of its own, `[samples, 1]`."""

    # all
    input_names: tuple[str, ...] = ()
    """The inputs of the network; by default what the files call them."""
    classes: Path | None = None
    """A file with the name of a class on each line, in the network's order."""
    limit: int | None = None
    """Take so many samples, chosen by `seed`; by default all."""
    seed: int = 0

    def __post_init__(self) -> None:
        known = {
            "layout": LAYOUTS,
            "channels": CHANNELS,
            "crop": CROPS,
            "dtype": DTYPES,
            "table": TABLES,
        }
        for name, values in known.items():
            value = getattr(self, name)
            if value is not None and value not in values:
                raise SamplesRefused(f"{name} is one of {', '.join(values)}, got {value!r}")
        for name in ("limit", "max_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SamplesRefused(f"{name} is at least 1, got {value}")
        if self.scale is not None and self.scale == 0:
            raise SamplesRefused("scale is what pixels are divided by, got 0; 255 gives 0 to 1, 1 leaves them")
        if self.std is not None and 0 in self.std:
            raise SamplesRefused(f"std is what values are divided by, got {list(self.std)}; 1 leaves them")
