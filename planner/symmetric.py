"""Large symmetric matrices in the memory that they have: what is done to all entries is done tile by tile.

At 2,560 candidates the interactions take 52 MB, and each expression over all of them as much again.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigvalsh

FloatArray = NDArray[np.float64]

_TILE = 256  # rows and columns that are worked on at once


def symmetrise(matrix: FloatArray) -> None:
    """`(G + G') / 2` in the place of G `[K, K]`."""
    for rows, columns in _upper_tiles(len(matrix)):
        mean = (matrix[rows, columns] + matrix[columns, rows].T) / 2
        matrix[rows, columns] = mean
        matrix[columns, rows] = mean.T


def asymmetry(matrix: FloatArray) -> float:
    """The largest `|G - G'|`; NaN where an entry is."""
    return float(
        np.max(
            [
                np.abs(matrix[rows, columns] - matrix[columns, rows].T).max()
                for rows, columns in _upper_tiles(len(matrix))
            ]
        )
    )


def largest(matrix: FloatArray) -> float:
    """The largest absolute entry; NaN where an entry is."""
    return float(np.max([np.abs(matrix[start : start + _TILE]).max() for start in range(0, len(matrix), _TILE)]))


def eigenvalue_range(matrix: FloatArray) -> tuple[float, float]:
    """The smallest and the largest eigenvalue of a symmetric matrix `[K, K]`, contiguous and writeable.

    LAPACK works in the triangle of it that is then restored from the other one: the matrix is as it was before.
    """
    diagonal = matrix.diagonal().copy()
    values = eigvalsh(matrix.T, lower=True, overwrite_a=True, check_finite=False)
    for rows, columns in _upper_tiles(len(matrix)):
        if rows == columns:
            tile = matrix[rows, columns]
            tile[...] = np.tril(tile, -1) + np.tril(tile, -1).T
        else:
            matrix[rows, columns] = matrix[columns, rows].T
    matrix[np.diag_indices(len(matrix))] = diagonal
    return float(values[0]), float(values[-1])


def _upper_tiles(count: int) -> Iterator[tuple[slice, slice]]:
    """Tiles on and above the diagonal, rows and columns."""
    for row in range(0, count, _TILE):
        for column in range(row, count, _TILE):
            yield slice(row, row + _TILE), slice(column, column + _TILE)
