"""Folders of images become the arrays that the usual tools make of them; what is not stated is asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bitbudget_client.samples import SampleOptions, SamplesRefused, prepare, prepared, read

STATED: dict[str, Any] = {
    "size": (32, 32),
    "resize": 40,
    "crop": "center",
    "scale": 255.0,
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "layout": "nchw",
    "channels": "rgb",
}


def image(path: Path, seed: int, height: int = 50, width: int = 70) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate(["dog/a.png", "dog/b.png", "cat/c.PNG", "owl/d.png"]):
        image(tmp_path / "images" / name, seed)
    (tmp_path / "images" / "cat" / "notes.txt").write_text("no image")
    return tmp_path / "images"


def by_hand(path: Path) -> np.ndarray:
    """Resize, crop and normalise, as in the training of most networks."""
    with Image.open(path) as opened:
        resized = opened.convert("RGB").resize((56, 40), Image.Resampling.BILINEAR).crop((12, 4, 44, 36))
    values = (np.asarray(resized, np.float32) / 255 - np.float32(STATED["mean"])) / np.float32(STATED["std"])
    return values.transpose(2, 0, 1)


def test_class_folders_give_labels_in_the_order_of_their_names(folder: Path) -> None:
    made = prepare(folder, SampleOptions(**STATED))
    assert made.classes == ("cat", "dog", "owl")
    arrays = made.loaded()
    assert arrays["labels"].tolist() == [0, 1, 1, 2]
    assert arrays["images"].shape == (4, 3, 32, 32)
    for place, name in enumerate(["cat/c.PNG", "dog/a.png", "dog/b.png", "owl/d.png"]):
        assert np.allclose(arrays["images"][place], by_hand(folder / name), atol=1e-6)
    assert "resized to a shorter side of 40 (bilinear), center crop, /255" in made.notes[0]


def test_a_saved_file_holds_the_same_as_the_arrays(folder: Path, tmp_path: Path) -> None:
    path = prepared(folder, tmp_path / "out.npz", **STATED, input_names=("pixels",))
    arrays = read(folder, **STATED, input_names=("pixels",))
    with np.load(path) as saved:
        assert set(saved) == {"pixels", "labels"}
        assert all(np.array_equal(saved[name], arrays[name]) for name in saved)


def test_numbers_and_a_file_of_classes_say_which_label_is_which(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("owl\nfox\ndog\ncat\n")
    assert read(folder, **STATED, classes=tmp_path / "classes.txt")["labels"].tolist() == [3, 2, 2, 0]
    (tmp_path / "classes.txt").write_text("owl\ndog\n")
    with pytest.raises(SamplesRefused, match="does not name the classes 'cat'"):
        read(folder, **STATED, classes=tmp_path / "classes.txt")
    for name, number in (("dog", "10"), ("cat", "9"), ("owl", "207")):
        (folder / name).rename(folder / number)
    assert read(folder, **STATED)["labels"].tolist() == [10, 10, 207, 9]


def test_what_is_not_stated_is_asked_for_and_never_guessed(folder: Path) -> None:
    with pytest.raises(SamplesRefused, match="--mean --std --channels are not stated"):
        read(folder, size=(32, 32), scale=255.0, layout="nchw")
    with pytest.raises(SamplesRefused, match=r"c.PNG is 50x70 .*, expected 32x32: say how"):
        read(folder, **{**STATED, "resize": None, "crop": None})
    with pytest.raises(SamplesRefused, match="expected one, or 1 for gray"):
        read(folder, **{**STATED, "channels": "gray"})
    with pytest.raises(SamplesRefused, match="layout is one of nchw, nhwc, got 'chw'"):
        read(folder, **{**STATED, "layout": "chw"})


@pytest.mark.parametrize("channels", ["rgb", "bgr", "gray"])
def test_layouts_channels_and_raw_pixels(tmp_path: Path, channels: str) -> None:
    pixels = image(tmp_path / "a.png", 0, 16, 16)
    given = {"size": (16, 16), "channels": channels, "dtype": "uint8"}
    wide = read(tmp_path, **given, layout="nhwc")["images"]
    planes = read(tmp_path, **given, layout="nchw")["images"]
    assert wide.dtype == np.uint8
    assert np.array_equal(np.moveaxis(planes, 1, 3), wide)
    if channels == "rgb":
        assert np.array_equal(wide[0], pixels)
    elif channels == "bgr":
        assert np.array_equal(wide[0], pixels[..., ::-1])
    else:
        assert wide.shape == (1, 16, 16, 1)
    assert "labels" not in read(tmp_path, **given, layout="nhwc")


@pytest.mark.parametrize(
    ("config", "size", "scale"),
    [
        ({"size": {"shortest_edge": 40}, "do_center_crop": True, "crop_size": {"height": 32, "width": 32}}, 32, 255),
        ({"size": 40, "do_center_crop": True, "crop_size": 32}, 32, 255),
        ({"size": {"height": 24, "width": 24}, "do_rescale": False}, 24, 1),
        ({"size": 24}, 24, 255),
    ],
)
def test_a_configuration_of_the_network_states_it_all(
    folder: Path, tmp_path: Path, config: dict[str, Any], size: int, scale: float
) -> None:
    normal = {"do_normalize": True, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25], "resample": 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config | normal))
    made = prepare(folder, SampleOptions(preprocessor=tmp_path))
    assert made.loaded()["images"].shape == (4, 3, size, size)
    assert "(bicubic)" in made.notes[0]
    assert f"/{scale:g}, -[0.5, 0.5, 0.5], /[0.25, 0.25, 0.25]" in made.notes[0]
    stated = SampleOptions(preprocessor=tmp_path, layout="nhwc", scale=1.0)
    assert prepare(folder, stated).loaded()["images"].shape == (4, size, size, 3)


def test_a_configuration_that_asks_for_more_is_refused(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "preprocessor_config.json"
    for config, said in (({"crop_pct": 0.9, "size": 32}, "crop_pct"), ({"size": {"longest_edge": 9}}, "longest_edge")):
        path.write_text(json.dumps(config))
        with pytest.raises(SamplesRefused, match=said):
            read(folder, preprocessor=path)


def test_images_that_are_broken_or_lie_about_are_named(folder: Path) -> None:
    image(folder / "loose.png", 9)
    with pytest.raises(SamplesRefused, match="beside folders of images"):
        read(folder, **STATED)
    (folder / "loose.png").unlink()
    (folder / "cat" / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(SamplesRefused, match=r"broken\.jpg cannot be read as an image"):
        read(folder, **STATED)


def test_a_limit_takes_some_by_the_seed(folder: Path) -> None:
    one, again = (read(folder, **STATED, limit=2, seed=3) for _ in range(2))
    assert one["images"].shape[0] == len(one["labels"]) == 2
    assert np.array_equal(one["images"], again["images"])
    whole = read(folder, **STATED)
    assert all(any(np.array_equal(row, other) for other in whole["images"]) for row in one["images"])
