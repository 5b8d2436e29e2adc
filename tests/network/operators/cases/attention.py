"""Attention and rotary position embeddings."""

import numpy as np

Q, K, V = (2, 4, 3, 6), (2, 4, 5, 6), (2, 4, 5, 2)
HEADS = {"q_num_heads": 2, "kv_num_heads": 2}
SEEN = np.random.default_rng(3).random((3, 5)) < 0.6
SEEN[:, 0] = True
ANGLE = np.random.default_rng(4).uniform(-3, 3, (8, 3)).astype(np.float32)
POSITIONS = np.array([[0, 1, 2], [5, 7, 3]])

CASES = [
    {"op": "Attention", "inputs": [Q, K, V]},
    {"op": "Attention", "inputs": [Q, K, V], "attributes": {"scale": 0.3, "softcap": 1.5}},
    {"op": "Attention", "inputs": [Q, K, V, (3, 5)]},
    {"op": "Attention", "inputs": [Q, K, V, (2, 1, 3, 5)]},
    {"op": "Attention", "inputs": [Q, K, V, SEEN]},
    {"op": "Attention", "inputs": [Q, Q, Q], "attributes": {"is_causal": 1}},
    {"op": "Attention", "inputs": [Q, (2, 2, 5, 6), (2, 2, 5, 6)]},
    {"op": "Attention", "inputs": [(2, 3, 8), (2, 5, 8), (2, 5, 8)], "attributes": HEADS},
    {
        "op": "Attention",
        "inputs": [(2, 3, 8), (2, 3, 8), (2, 3, 8)],
        "attributes": HEADS | {"is_causal": 1},
        "opset": 23,
    },
    {
        "op": "Attention",
        "inputs": [Q, Q, Q, None, (2, 4, 2, 6), (2, 4, 2, 6)],
        "attributes": {"is_causal": 1},
        "outputs": 3,
    },
    {"op": "Attention", "inputs": [Q, K, V, None, None, None, np.array([4, 5])]},
    {"op": "Attention", "inputs": [Q, K, V, None, None, None, np.array([4, 5])], "attributes": {"is_causal": 1}},
    {"op": "RotaryEmbedding", "inputs": [(2, 4, 3, 6), np.cos(ANGLE), np.sin(ANGLE), POSITIONS]},
    {
        "op": "RotaryEmbedding",
        "inputs": [(2, 3, 16), np.cos(ANGLE), np.sin(ANGLE), POSITIONS],
        "attributes": {"num_heads": 2, "interleaved": 1, "rotary_embedding_dim": 6},
    },
    {"op": "RotaryEmbedding", "inputs": [(2, 4, 3, 6), np.cos(ANGLE[POSITIONS]), np.sin(ANGLE[POSITIONS])]},
    *(
        {
            "op": "Attention",
            "inputs": [Q, K, V, SEEN],
            "attributes": {"softcap": 1.5, "qk_matmul_output_mode": mode},
            "outputs": 4,
            "opset": 23,
            "smooth": False,  # what is masked is infinite
        }
        for mode in (0, 3)
    ),
]
