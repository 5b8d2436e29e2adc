"""Elements that their values choose: boxes that do not overlap, elements without repetition."""

from __future__ import annotations

import torch
from torch import Tensor

from network.operators.node import Node
from network.operators.registry import operator


@operator("NonMaxSuppression", since=10, host=(2, 3, 4))
def non_max_suppression(
    node: Node,
    boxes: Tensor,
    scores: Tensor,
    most: Tensor | None = None,
    overlap: Tensor | None = None,
    least: Tensor | None = None,
) -> Tensor:
    """Sample, class and box, [chosen, 3]: of each class the boxes by falling score that overlap none before them.

    boxes [N, B, 4], scores [N, classes, B]; at most `most` of a class, whose scores exceed `least`, and that share at
    most the part `overlap` of their union.
    """
    limit = 0 if most is None else int(most.item())
    threshold = 0.0 if overlap is None else float(overlap.item())
    corners, known = _corners(node, boxes.detach().cpu()), scores.detach().cpu()
    chosen: list[tuple[int, int, int]] = []
    for sample in range(known.shape[0]):
        for kind in range(known.shape[1]):
            order = known[sample, kind].argsort(descending=True, stable=True)
            if least is not None:
                order = order[known[sample, kind, order] > least.item()]
            kept = _without_overlaps(corners[sample], order, limit, threshold)
            chosen += [(sample, kind, box) for box in kept]
    return torch.tensor(chosen, dtype=torch.int64).reshape(-1, 3)


def _corners(node: Node, boxes: Tensor) -> Tensor:
    """The lower and the upper corner of each box, [N, B, 2, 2]."""
    if node.get("center_point_box", 0):
        centre, half = boxes[..., :2], boxes[..., 2:] / 2
        return torch.stack([centre - half, centre + half], -2)
    first, second = boxes[..., :2], boxes[..., 2:]
    return torch.stack([torch.minimum(first, second), torch.maximum(first, second)], -2)


def _without_overlaps(corners: Tensor, order: Tensor, limit: int, threshold: float) -> list[int]:
    areas = (corners[:, 1] - corners[:, 0]).prod(-1)
    kept: list[int] = []
    while order.numel() and len(kept) < limit:
        best, order = order[0], order[1:]
        kept.append(int(best))
        low = torch.maximum(corners[best, 0], corners[order, 0])
        high = torch.minimum(corners[best, 1], corners[order, 1])
        shared = (high - low).clamp(min=0).prod(-1)
        union = areas[best] + areas[order] - shared
        order = order[~((union > 0) & (shared / union > threshold))]
    return kept


@operator("Unique", since=11)
def unique(node: Node, x: Tensor) -> tuple[Tensor, ...]:
    """The different elements, or slices along `axis`, in order or as they come; where each is first, which of them
    each element is, and how many there are of each."""
    axis = node.get("axis")
    along = 0 if axis is None else axis
    x = x.flatten() if axis is None else x
    _, inverse, counts = torch.unique(x.detach(), sorted=True, return_inverse=True, return_counts=True, dim=along)
    places = torch.arange(inverse.numel(), device=x.device)
    first = torch.full_like(counts, inverse.numel()).scatter_reduce(0, inverse, places, "amin")
    if not node.get("sorted", 1):
        order = first.argsort()
        first, counts = first[order], counts[order]
        inverse = order.argsort()[inverse]
    return x.index_select(along, first), first, inverse, counts
