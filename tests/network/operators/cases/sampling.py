"""Values between the pixels of an image."""

import numpy as np

RANDOM = np.random.default_rng(5)
X2, X3 = (2, 3, 4, 5), (1, 2, 3, 4, 3)
GRID2 = RANDOM.uniform(-1.3, 1.3, (2, 3, 4, 2)).astype(np.float32)
GRID3 = RANDOM.uniform(-1.3, 1.3, (1, 2, 3, 2, 3)).astype(np.float32)
ROIS = np.float32([[0.3, 0.6, 4.1, 3.7], [-1.2, 0.4, 2.3, 6.1], [1.1, 1.2, 1.5, 1.3]])
BATCH = np.array([0, 1, 1])
ROI = {"output_height": 2, "output_width": 3}
OFFSET = RANDOM.uniform(-1.4, 1.4, (2, 2 * 4 * 2, 3, 4)).astype(np.float32)


def grid_sample(x: tuple, grid: np.ndarray, **attributes: object) -> dict:
    opset = 16 if attributes.get("mode") in ("bilinear", "bicubic") else 20
    return {"op": "GridSample", "inputs": [x, grid], "attributes": attributes, "opset": opset}


CASES = [
    *(
        grid_sample(X2, GRID2, mode=mode, padding_mode=padding, align_corners=aligned)
        for mode in ("linear", "nearest", "cubic")
        for padding in ("zeros", "border", "reflection")
        for aligned in (0, 1)
    ),
    *(
        grid_sample(X3, GRID3, mode=mode, padding_mode=padding)
        for mode in ("linear", "nearest")
        for padding in ("zeros", "border", "reflection")
    ),
    grid_sample(X2, GRID2, mode="bilinear"),
    grid_sample(X2, GRID2, mode="bicubic", align_corners=1),
    grid_sample((1, 1, 1, 1), GRID2[:1], mode="linear", padding_mode="reflection", align_corners=1),
    *(
        {"op": "AffineGrid", "inputs": [(2, 2, 3), np.array([2, 1, 3, 4])], "attributes": {"align_corners": aligned}}
        for aligned in (0, 1)
    ),
    {"op": "AffineGrid", "inputs": [(2, 3, 4), np.array([2, 1, 3, 4, 2])]},
    *(
        {"op": "RoiAlign", "inputs": [X2, ROIS, BATCH], "attributes": ROI | attributes, "opset": opset}
        for opset in (10, 16)
        for attributes in (
            {"sampling_ratio": 2},
            {"spatial_scale": 0.7},
            {"mode": "max", "sampling_ratio": 2},
            *([{"coordinate_transformation_mode": "output_half_pixel", "sampling_ratio": 3}] if opset == 16 else []),
        )
    ),
    {"op": "DeformConv", "inputs": [X2, (4, 3, 2, 2), OFFSET[:, :8]], "attributes": {"kernel_shape": [2, 2]}},
    {
        "op": "DeformConv",
        "inputs": [(2, 4, 4, 5), (2, 2, 2, 2), OFFSET, (2,), (2, 8, 3, 4)],
        "attributes": {"offset_group": 2, "group": 2},
    },
    {
        "op": "DeformConv",
        "inputs": [(2, 3, 4, 5), (2, 3, 2, 2), OFFSET[:, :8, :, :2]],
        "attributes": {"pads": [1, 0, 1, 1], "strides": [2, 2], "dilations": [1, 2]},
    },
]
