"""Whether samples fit a network, told from their descriptions: as a job would, before there is one."""

from __future__ import annotations

from typing import Any

import pytest

from app.services.sample_match import match, roles


def array(name: str, shape: list[int], dtype: str = "float32", **more: Any) -> dict[str, Any]:
    kind = name.rpartition("/")[2].split(".")[0]
    role = kind if kind in ("labels", "targets", "boxes") else "input"
    return {"name": name, "dtype": dtype, "shape": shape, "role": role, "minimum": 0.0, "maximum": 1.0, **more}


def model(*inputs: tuple[str, str, list[int | None]], classes: int = 10) -> dict[str, Any]:
    specs = [{"name": name, "dtype": dtype, "shape": shape} for name, dtype, shape in inputs]
    return {"inputs": specs, "outputs": [{"name": "y", "dtype": "float32", "shape": [None, classes]}]}


def data(*arrays: dict[str, Any], samples: int = 100) -> dict[str, Any]:
    return {"arrays": list(arrays), "samples": samples}


IMAGE = ("image", "float32", [None, 3, 8, 8])
LABELS = array("labels", [100], "int64", maximum=9.0)


@pytest.mark.parametrize(
    ("network", "samples"),
    [
        (model(IMAGE), data(array("image", [100, 3, 8, 8]), LABELS)),
        (model(IMAGE), data(array("anything", [100, 3, 8, 8], "float16"), LABELS)),
        (model(("x", "float32", [1, 3, None])), data(array("x", [100, 3, 7]))),
        (model(("state", "float32", [2, None, 16])), data(array("state", [100, 2, 16]))),
        (
            model(("ids", "int64", [None, None]), IMAGE),
            data(array("ids", [1, 5], "int32"), array("image", [100, 3, 8, 8])),
        ),
        (
            model(("ids", "int64", [None, None])),
            data(array("a/ids", [60, 8], "int64"), array("b/ids", [40, 16], "int64"), array("a/labels", [60], "int64")),
        ),
    ],
)
def test_samples_that_fit(network: dict[str, Any], samples: dict[str, Any]) -> None:
    assert match(network, samples) == []


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        (data(array("img", [100, 3, 8, 8]), array("more", [100])), ["no array for the input 'image'", "'img', 'more'"]),
        (data(array("image", [100, 3, 8, 8]), array("lables", [100])), ["'lables' is no input of the network"]),
        (data(array("image", [100, 8, 8, 3])), ["has the shape [100, 8, 8, 3]", "takes [any, 3, 8, 8]"]),
        (data(array("image", [100, 3, 8, 8], "uint8")), ["holds uint8", "takes float32"]),
        (data(array("image", [40, 3, 8, 8]), samples=40), ["hold 40 samples, at least 48"]),
        (
            data(array("image", [100, 3, 8, 8]), array("labels", [100], "int64", minimum=1.0, maximum=10.0)),
            ["labels go from 1 to 10", "expected 0 to 9", "subtract 1"],
        ),
        (data(array("image", [100, 3, 8, 8]), array("labels", [99], "int64")), ["'image': 100", "'labels': 99"]),
        (
            data(array("image", [100, 3, 8, 8]), array("labels", [100], "int64", minimum=-1.0, maximum=-1.0)),
            ["all labels are below 0"],
        ),
    ],
)
def test_what_does_not_fit_is_said(samples: dict[str, Any], said: list[str]) -> None:
    problems = match(model(IMAGE), samples)
    assert problems
    assert all(any(text in problem for problem in problems) for text in said), problems


def test_roles_name_the_input_that_an_array_feeds() -> None:
    assert roles(model(IMAGE), data(array("x", [100, 3, 8, 8]), LABELS)) == {"x": "image", "labels": "labels"}
    two = model(IMAGE, ("mask", "bool", [None]))
    assert roles(two, data(array("image", [100, 3, 8, 8]), array("other", [100]))) == {"image": "image", "other": None}
