"""Resize by every interpolation and every way to place the coordinates."""

import numpy as np

X = (1, 2, 4, 5)
UP, DOWN = np.float32([1, 1, 2, 1.6]), np.float32([1, 1, 0.6, 0.5])
SIZES = np.array([1, 2, 7, 3])
COORDINATES = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric")
MODES = [
    *({"mode": "nearest", "nearest_mode": n} for n in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")),
    {"mode": "linear"},
    {"mode": "cubic"},
]


def resize(mode: dict, scales: np.ndarray | None = None, sizes: np.ndarray | None = None, opset: int = 25) -> dict:
    inputs = [X, None, scales, sizes] if sizes is not None else [X, None, scales]
    return {"op": "Resize", "inputs": inputs, "attributes": mode, "opset": opset, "constant": [2]}


CASES = [
    *(
        resize(mode | {"coordinate_transformation_mode": where}, scales)
        for mode in MODES
        for where in COORDINATES
        for scales in (UP, DOWN)
    ),
    *(resize(mode, sizes=SIZES) for mode in MODES),
    resize({"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"}, sizes=np.array([1, 2, 1, 5])),
    resize({"mode": "cubic", "exclude_outside": 1, "cubic_coeff_a": -0.5}, UP),
    resize({"mode": "linear", "axes": [2, 3]}, np.float32([2, 2])),
    resize({"mode": "linear", "axes": [3]}, sizes=np.array([8])),
    resize({"axes": [2, 3], "keep_aspect_ratio_policy": "not_larger"}, sizes=np.array([8, 8])),
    resize({"axes": [2, 3], "keep_aspect_ratio_policy": "not_smaller"}, sizes=np.array([8, 8])),
    resize({"mode": "linear"}, UP, opset=13),
    *(
        resize(mode | {"antialias": 1, "exclude_outside": outside}, DOWN)
        for mode in ({"mode": "linear"}, {"mode": "cubic"})
        for outside in (0, 1)
    ),
    *(
        {
            "op": "Resize",
            "inputs": [X, np.float32([0, 0, 0.2, -0.3, 1, 1, 0.9, 1.2]), None, SIZES],
            "attributes": mode | {"coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 2.5},
            "constant": [1],
        }
        for mode in MODES
    ),
]
