"""Samples of different lengths: an archive holds them in groups, each with arrays of its own.

    numpy.savez(path, **{"short/ids": [n, 8], "short/labels": [n], "long/ids": [m, 64], "long/labels": [m]})

What stands before the slash names a group; the samples of all groups are the samples of the data, one group after the
other. Several groups, and so several lengths, may share calls of the network only within themselves.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.metrics.padding import filled_up
from network.batching import ragged_samples

_SLASH = "/"


def groups_of(members: Collection[str], inputs: Collection[str]) -> list[dict[str, str]]:
    """The members of an archive by what they are called within their group, for each group; one group where the members
    are arrays of no group. A graph input may itself have a slash in its name."""
    groups: dict[str, dict[str, str]] = {}
    for member in members:
        group, slash, name = member.partition(_SLASH)
        if not slash or member in inputs:
            return [{name: name for name in members}]
        groups.setdefault(group, {})[name] = member
    if any(not set(inputs) <= own.keys() for own in groups.values()):
        return [{name: name for name in members}]
    return list(groups.values())


def joined_inputs(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """The samples of all groups, one by one where their shapes differ."""
    if len({part.shape[1:] for part in parts}) == 1:
        return parts[0] if len(parts) == 1 else np.concatenate(parts)
    return ragged_samples([sample for part in parts for sample in part])


def joined_truth(parts: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """What is right of all samples; labels are filled up with -1, which does not count, values with NaN."""
    joined = {}
    for name in parts[0]:
        rows = [row for part in parts for row in part[name]]
        shape = np.max([np.shape(row) for row in rows], axis=0) if rows[0].ndim else ()
        joined[name] = filled_up([np.asarray(row) for row in rows], shape)
    return joined
