"""Folders of images: one folder, or one folder for each class. Nothing about their preparation is guessed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bitbudget_client.samples.classes import labelled
from bitbudget_client.samples.options import SampleOptions
from bitbudget_client.samples.prepared import PreparedSamples, Rows
from bitbudget_client.samples.refusal import SamplesRefused, library

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
CONFIG = "preprocessor_config.json"
_MODES = {"rgb": "RGB", "bgr": "RGB", "gray": "L"}
_FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # as Pillow numbers them
_NEEDED = ("size", "scale", "mean", "std", "layout", "channels")
_UNSUPPORTED = ("crop_pct", "do_pad", "do_flip_channel_order", "do_thumbnail", "do_align_long_axis", "do_reduce_labels")


def images_in(folder: Path) -> list[Path]:
    """The images in a folder and one level below it, in the order of their names."""
    files = [*folder.iterdir(), *(file for inner in folder.iterdir() if inner.is_dir() for file in inner.iterdir())]
    return sorted(file for file in files if file.suffix.lower() in SUFFIXES and not file.name.startswith("."))


def read_images(folder: Path, options: SampleOptions) -> PreparedSamples:
    """The images as one array; folders of them are classes.

    Raises:
        SamplesRefused: what is done to an image is not stated, or images lie both beside and in folders.
    """
    files = images_in(folder)
    inside = [file.parent != folder for file in files]
    if any(inside) and not all(inside):
        raise SamplesRefused(
            f"{folder} has images beside folders of images; expected either: one folder for each class, or images alone"
        )
    steps = steps_of(options)
    shape = (steps.planes, *steps.size) if steps.layout == "nchw" else (*steps.size, steps.planes)
    rows = Rows((len(files), *shape), steps.dtype, lambda place: steps.apply(files[place]))
    arrays: dict[str, Any] = {options.input_names[0] if options.input_names else "images": rows}
    notes = [f"{len(files):,} images: {steps.text}"]
    classes: tuple[str, ...] = ()
    if all(inside):
        arrays["labels"], classes, note = labelled([file.parent.name for file in files], options.classes)
        notes.append(note)
    return PreparedSamples(arrays, classes, tuple(notes))


@dataclass(frozen=True)
class Steps:
    """What is done to every image, in this order."""

    size: tuple[int, int]
    resize: tuple[int, int] | int | None
    crop: str | None
    interpolation: str
    channels: str
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    layout: str
    dtype: str

    @property
    def planes(self) -> int:
        return 1 if self.channels == "gray" else 3

    @property
    def text(self) -> str:
        """In words, so that whoever runs it sees what was done."""
        steps = [f"{self.channels} of {self.size[0]}x{self.size[1]}"]
        steps += [] if self.resize is None else [f"resized to {_lengths(self.resize)} ({self.interpolation})"]
        steps += [] if self.crop is None else ["center crop" if self.crop == "center" else "stretched to the size"]
        if self.dtype != "uint8":
            steps.append(f"/{self.scale:g}, -{list(self.mean)}, /{list(self.std)}")
        return ", ".join([*steps, self.layout, self.dtype])

    def apply(self, file: Path) -> Any:
        """The image in `file` as an array.

        Raises:
            SamplesRefused: it cannot be read, or is of another size than stated.
        """
        numpy, pillow = library("numpy", "numpy"), library("PIL.Image", "pillow")
        try:
            with pillow.open(file) as opened:
                image = self._of_size(opened.convert(_MODES[self.channels]), file.name)
        except (OSError, pillow.DecompressionBombError) as error:
            raise SamplesRefused(f"{file} cannot be read as an image ({error}); repair it, or take it out") from error
        pixels = numpy.asarray(image).reshape(*self.size, self.planes)
        if self.channels == "bgr":
            pixels = pixels[..., ::-1]
        if self.dtype != "uint8":
            values = pixels.astype(numpy.float32) / numpy.float32(self.scale)
            pixels = (values - numpy.float32(self.mean)) / numpy.float32(self.std)
        pixels = pixels.transpose(2, 0, 1) if self.layout == "nchw" else pixels
        return numpy.ascontiguousarray(pixels, self.dtype)

    def _of_size(self, image: Any, name: str) -> Any:
        if self.resize is not None:
            image = self._resized(image, _target(image, self.resize))
        height, width = self.size
        if image.size == (width, height):
            return image
        if self.crop == "none":
            return self._resized(image, self.size)
        if self.crop == "center" and image.width >= width and image.height >= height:
            left, top = round((image.width - width) / 2), round((image.height - height) / 2)
            return image.crop((left, top, left + width, top + height))
        raise SamplesRefused(
            f"{name} is {image.height}x{image.width} (height x width), expected {height}x{width}: say how to get "
            "there, --resize N with --crop center as most networks were trained, or --crop none to stretch images"
        )

    def _resized(self, image: Any, size: tuple[int, int]) -> Any:
        pillow = library("PIL.Image", "pillow")
        return image.resize((size[1], size[0]), getattr(pillow.Resampling, self.interpolation.upper()))


def _target(image: Any, resize: tuple[int, int] | int) -> tuple[int, int]:
    """Height and width after the first step; the longer side is cut to whole pixels, as torchvision does it."""
    if not isinstance(resize, int):
        return resize
    short, long = sorted(image.size)
    other = int(resize * long / short)
    return (resize, other) if image.height <= image.width else (other, resize)


def steps_of(options: SampleOptions) -> Steps:
    """The steps that were stated, by the options before the configuration.

    Raises:
        SamplesRefused: names what is not stated.
    """
    if options.preprocessor is not None:
        options = _configured(options, options.preprocessor)
    if options.dtype == "uint8":  # raw pixels, for networks that prepare them themselves
        options = replace(options, scale=options.scale or 1.0, mean=options.mean or (0.0,), std=options.std or (1.0,))
        if (options.scale, options.mean, options.std) != (1.0, (0.0,), (1.0,)):
            raise SamplesRefused("images of uint8 are raw pixels; leave --scale, --mean and --std out, or take float32")
    missing = [f"--{name}" for name in _NEEDED if getattr(options, name) is None]
    if missing:
        raise SamplesRefused(
            f"images are prepared exactly as the network was trained, and {' '.join(missing)} are not stated. E.g. "
            "--size 224 --resize 256 --crop center --scale 255 --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 "
            f"--layout nchw --channels rgb, or --preprocessor {CONFIG} of the network"
        )
    if options.interpolation not in _FILTERS:
        raise SamplesRefused(f"interpolation is one of {', '.join(_FILTERS)}, got {options.interpolation!r}")
    steps = Steps(**{name: getattr(options, name) for name in Steps.__dataclass_fields__})
    for name in ("mean", "std"):
        if len(getattr(steps, name)) not in (1, steps.planes):
            raise SamplesRefused(
                f"--{name} has {len(getattr(steps, name))} numbers; expected one, or {steps.planes} for "
                f"{steps.channels} channels"
            )
    return steps


def _configured(options: SampleOptions, path: Path) -> SampleOptions:
    """The options with what the network's own configuration says where they say nothing."""
    path = path / CONFIG if path.is_dir() else path
    try:
        config: Mapping[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SamplesRefused(f"{path} cannot be read as JSON: {error}") from error
    unknown = [name for name in _UNSUPPORTED if config.get(name)]
    if unknown:
        raise SamplesRefused(
            f"{path} asks for {', '.join(unknown)}, which is not done here; state the steps as options"
        )
    said: dict[str, Any] = {"layout": "nchw", "channels": "rgb"}
    if config.get("do_resize", True) and "size" in config:
        said["resize"] = _lengths_in(config["size"], path)
        if isinstance(config["size"], int) and config.get("do_center_crop"):
            said["resize"] = config["size"]  # of old configurations: the shorter side where a crop follows
        said["interpolation"] = _FILTERS[config.get("resample", 2)]
    if config.get("do_center_crop") and "crop_size" in config:
        crop = _lengths_in(config["crop_size"], path)
        said["size"], said["crop"] = (crop, crop) if isinstance(crop, int) else crop, "center"
    elif isinstance(said.get("resize"), tuple):
        said["size"] = said["resize"]
    said["scale"] = 1 / config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1.0
    normalised = config.get("do_normalize", True) and "image_mean" in config
    said["mean"] = tuple(config["image_mean"]) if normalised else (0.0,)
    said["std"] = tuple(config["image_std"]) if normalised else (1.0,)
    default = SampleOptions()
    return replace(
        options, **{name: value for name, value in said.items() if getattr(options, name) == getattr(default, name)}
    )


def _lengths_in(value: Any, path: Path) -> tuple[int, int] | int:
    if isinstance(value, int):
        return value, value
    if isinstance(value, Mapping) and "shortest_edge" in value and "longest_edge" not in value:
        return int(value["shortest_edge"])
    if isinstance(value, Mapping) and {"height", "width"} <= value.keys():
        return int(value["height"]), int(value["width"])
    raise SamplesRefused(f"{path} has the size {value!r}, which is not understood; state --size and --resize")


def _lengths(lengths: tuple[int, int] | int) -> str:
    return f"a shorter side of {lengths}" if isinstance(lengths, int) else f"{lengths[0]}x{lengths[1]}"
