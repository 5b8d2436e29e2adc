"""Conv and ConvTranspose."""

X1, X2, X3 = (2, 4, 9), (2, 4, 7, 6), (1, 2, 4, 5, 4)

CASES = [
    # Conv: rank, bias, groups, strides, dilations, padding of every kind
    {"op": "Conv", "inputs": [X1, (3, 4, 3)]},
    {"op": "Conv", "inputs": [X1, (3, 4, 3), (3,)], "attributes": {"pads": [1, 1], "strides": [2]}},
    {"op": "Conv", "inputs": [X1, (6, 2, 2), (6,)], "attributes": {"group": 2, "pads": [0, 1], "dilations": [2]}},
    {"op": "Conv", "inputs": [X2, (3, 4, 3, 3)]},
    {"op": "Conv", "inputs": [X2, (3, 4, 3, 2), (3,)], "attributes": {"pads": [1, 0, 1, 0], "kernel_shape": [3, 2]}},
    {"op": "Conv", "inputs": [X2, (3, 4, 3, 3), (3,)], "attributes": {"pads": [0, 1, 2, 1], "strides": [2, 1]}},
    {"op": "Conv", "inputs": [X2, (4, 1, 3, 3), (4,)], "attributes": {"group": 4, "pads": [1, 1, 1, 1]}},
    {"op": "Conv", "inputs": [X2, (6, 2, 3, 3), None], "attributes": {"group": 2, "dilations": [2, 1]}},
    {"op": "Conv", "inputs": [X2, (3, 4, 3, 2), (3,)], "attributes": {"auto_pad": "SAME_UPPER", "strides": [2, 3]}},
    {"op": "Conv", "inputs": [X2, (3, 4, 2, 4), (3,)], "attributes": {"auto_pad": "SAME_LOWER", "strides": [1, 2]}},
    {"op": "Conv", "inputs": [X2, (3, 4, 3, 3), (3,)], "attributes": {"auto_pad": "SAME_UPPER"}, "opset": 11},
    {"op": "Conv", "inputs": [X2, (3, 4, 2, 2)], "attributes": {"auto_pad": "VALID", "strides": [2, 2]}},
    {"op": "Conv", "inputs": [X3, (2, 2, 2, 3, 2), (2,)], "attributes": {"pads": [1, 1, 0, 1, 1, 0]}},
    {"op": "Conv", "inputs": [X3, (2, 1, 2, 2, 2)], "attributes": {"group": 2, "strides": [1, 2, 1]}},
    # ConvTranspose
    {"op": "ConvTranspose", "inputs": [X1, (4, 3, 3), (3,)], "attributes": {"strides": [2]}},
    {"op": "ConvTranspose", "inputs": [X2, (4, 3, 3, 3)]},
    {
        "op": "ConvTranspose",
        "inputs": [X2, (4, 3, 3, 3), (3,)],
        "attributes": {"pads": [1, 1, 1, 1], "strides": [2, 2]},
    },
    {"op": "ConvTranspose", "inputs": [X2, (4, 3, 3, 2), (3,)], "attributes": {"pads": [0, 1, 1, 0]}},
    {
        "op": "ConvTranspose",
        "inputs": [X2, (4, 1, 3, 3), (2,)],
        "attributes": {"group": 2, "strides": [2, 3], "output_padding": [1, 2], "pads": [1, 1, 1, 1]},
    },
    {
        "op": "ConvTranspose",
        "inputs": [X2, (4, 3, 3, 3), (3,)],
        "attributes": {"strides": [2, 2], "output_padding": [1, 0], "pads": [0, 1, 1, 1], "dilations": [2, 1]},
    },
    {
        "op": "ConvTranspose",
        "inputs": [X2, (4, 3, 3, 3), (3,)],
        "attributes": {"strides": [2, 2], "output_shape": [14, 13]},
    },
    {
        "op": "ConvTranspose",
        "inputs": [X2, (4, 3, 3, 3), (3,)],
        "attributes": {"strides": [2, 2], "output_shape": [14, 12], "auto_pad": "SAME_UPPER"},
    },
    {
        "op": "ConvTranspose",
        "inputs": [X2, (4, 3, 3, 3)],
        "attributes": {"strides": [2, 2], "auto_pad": "SAME_LOWER"},
    },
    {"op": "ConvTranspose", "inputs": [X2, (4, 3, 3, 3)], "attributes": {"auto_pad": "VALID", "strides": [2, 2]}},
    {"op": "ConvTranspose", "inputs": [X3, (2, 2, 2, 2, 2), (2,)], "attributes": {"strides": [2, 1, 2]}},
]
