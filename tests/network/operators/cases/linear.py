"""Gemm, MatMul, Einsum."""

CASES = [
    {"op": "Gemm", "inputs": [(3, 4), (4, 5)]},
    {"op": "Gemm", "inputs": [(3, 4), (4, 5), (5,)]},
    {
        "op": "Gemm",
        "inputs": [(4, 3), (5, 4), (3, 1)],
        "attributes": {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0},
    },
    {"op": "Gemm", "inputs": [(3, 4), (5, 4), ()], "attributes": {"transB": 1}},
    {"op": "Gemm", "inputs": [(3, 4), (4, 5), None], "attributes": {"alpha": 1.5}},
    {"op": "Gemm", "inputs": [(3, 4), (4, 5), (3, 5)], "opset": 9},
    {"op": "MatMul", "inputs": [(3, 4), (4, 5)]},
    {"op": "MatMul", "inputs": [(2, 3, 4), (4, 5)]},
    {"op": "MatMul", "inputs": [(2, 1, 3, 4), (3, 4, 2)]},
    {"op": "MatMul", "inputs": [(3, 4), (2, 4, 5)]},
    {"op": "MatMul", "inputs": [(4,), (4, 5)]},
    {"op": "MatMul", "inputs": [(2, 3, 4), (4,)]},
    {"op": "Einsum", "inputs": [(2, 3, 4), (2, 4, 5)], "attributes": {"equation": "bij,bjk->bik"}},
    {"op": "Einsum", "inputs": [(2, 3, 2, 4), (2, 5, 2, 4)], "attributes": {"equation": "bqhd, bkhd -> bhqk"}},
    {"op": "Einsum", "inputs": [(2, 3, 4)], "attributes": {"equation": "...ij->...ji"}},
    {"op": "Einsum", "inputs": [(3, 3)], "attributes": {"equation": "ii"}},
    {"op": "Det", "inputs": [(2, 3, 3)]},
]
