"""Scaled dot-product attention and rotary position embeddings.

Written from primitives: torch's own fused attention kernels are not twice differentiable.
Shapes: B samples, H heads, L queries, S keys, D elements of a head.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from network.operators.node import Node
from network.operators.registry import operator

# What the fourth output shows: products, those after the soft cap, those after the mask, and the weights.
_PRODUCTS, _CAPPED, _MASKED, _WEIGHTS = range(4)


def _refuse(node: Node) -> str | None:
    # Before opset 25 the modes between count the mask and the soft cap in the other order.
    order_differs = node.opset < 25 and node.get("qk_matmul_output_mode", 0) in (_CAPPED, _MASKED)
    return "this mode of its output qk_matmul_output" if order_differs and node.output_count > 3 else None


@operator("Attention", since=23, refuses=_refuse)
def attention(
    node: Node,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    valid_keys: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """softmax(q k' * scale, softcapped, + mask) v, and the keys and values with the past before them.

    q [B, Hq, L, D], k [B, Hkv, S, D], v [B, Hkv, S, Dv], or three axes [B, L, H * D] with the head counts as
    attributes; Hq is a multiple of Hkv. `valid_keys` [B] counts the keys of each sample that are not padding.
    """
    packed = query.dim() == 3
    if packed:
        query = _split_heads(query, node.get("q_num_heads"))
        key, value = (_split_heads(x, node.get("kv_num_heads")) for x in (key, value))
    past = 0
    if past_key is not None and past_value is not None:
        past = past_key.shape[2]
        key, value = torch.cat([past_key, key], 2), torch.cat([past_value, value], 2)
    repeats = query.shape[1] // key.shape[1]
    keys, values = (x if repeats == 1 else x.repeat_interleave(repeats, 1) for x in (key, value))

    root_scale = math.sqrt(node.get("scale") or 1 / math.sqrt(query.shape[-1]))
    products = (query * root_scale) @ (keys * root_scale).transpose(-1, -2)
    softcap = node.get("softcap", 0.0)
    capped = softcap * torch.tanh(products / softcap) if softcap else products
    allowed = _allowed_by_position(node, capped, past, valid_keys)
    allowed, scores = _masked(capped, allowed, mask)
    weights = _weights(scores, allowed)
    y = weights @ values
    y = y.transpose(1, 2).flatten(2) if packed else y
    if node.output_count <= 3:
        return y, key, value
    seen = scores if allowed is None else scores.masked_fill(~allowed, float("-inf"))
    return y, key, value, (products, capped, seen, weights)[node.get("qk_matmul_output_mode", _PRODUCTS)]


def _split_heads(x: Tensor, heads: int) -> Tensor:
    """[B, L, H * D] to [B, H, L, D]."""
    return x.reshape(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


def _allowed_by_position(node: Node, scores: Tensor, past: int, valid_keys: Tensor | None) -> Tensor | None:
    """Which keys each query may see by `is_causal`, window and `valid_keys`, broadcast to [B, H, L, S]; None: all."""
    queries, keys = scores.shape[-2:]
    key = torch.arange(keys, device=scores.device)
    query = torch.arange(queries, device=scores.device).unsqueeze(1) + past
    rules = []
    if valid_keys is not None:
        counts = valid_keys.reshape(-1, 1, 1, 1)
        rules.append(key < counts)
        query = query - past + counts - queries
    if node.get("is_causal", 0):
        rules.append(key <= query)
    left, right = node.get("left_window_size", -1), node.get("right_window_size", -1)
    if left >= 0:
        rules.append(key >= query - left)
    if right >= 0:
        rules.append(key <= query + right)
    return functools.reduce(torch.logical_and, rules) if rules else None


def _masked(scores: Tensor, allowed: Tensor | None, mask: Tensor | None) -> tuple[Tensor | None, Tensor]:
    """The keys that position and mask allow, and the scores with a mask of numbers added where it is finite."""
    if mask is None:
        return allowed, scores
    missing = scores.shape[-1] - mask.shape[-1]
    if mask.dtype == torch.bool:
        seen = torch.nn.functional.pad(mask, (0, missing), value=False)
    else:
        mask = torch.nn.functional.pad(mask, (0, missing), value=float("-inf"))
        seen = mask != float("-inf")
        scores = scores + torch.where(seen, mask, torch.zeros_like(mask))
    return seen if allowed is None else allowed & seen, scores


def _weights(scores: Tensor, allowed: Tensor | None) -> Tensor:
    """softmax of the scores over the allowed keys; all zero for a query that may see none."""
    if allowed is None:
        return torch.softmax(scores, -1)
    # The softmax never sees a row without an allowed key: it would be NaN, and so would its derivatives.
    some = allowed.any(-1, keepdim=True)
    weights = torch.softmax(scores.masked_fill(some & ~allowed, float("-inf")), -1)
    return weights.masked_fill(~some, 0.0)


@operator("RotaryEmbedding", since=23)
def rotary_embedding(node: Node, x: Tensor, cosine: Tensor, sine: Tensor, positions: Tensor | None = None) -> Tensor:
    """Pairs of elements of each head turned by the angle of their position; RoFormer, arXiv 2104.09864.

    x [B, H, L, D] or [B, L, H * D]. cosine and sine [P, D / 2] looked up by positions [B, L], or [B, L, D / 2].
    """
    packed = x.dim() == 3
    heads = _split_heads(x, node.get("num_heads")) if packed else x
    rotated_size = node.get("rotary_embedding_dim", 0) or heads.shape[-1]
    turned, rest = heads[..., :rotated_size], heads[..., rotated_size:]
    if positions is not None:
        cosine, sine = cosine[positions.long()], sine[positions.long()]
    cosine, sine = cosine.unsqueeze(1), sine.unsqueeze(1)
    interleaved = bool(node.get("interleaved", 0))
    if interleaved:
        first, second = turned[..., 0::2], turned[..., 1::2]
    else:
        first, second = turned.chunk(2, -1)
    pair = [cosine * first - sine * second, sine * first + cosine * second]
    turned = torch.stack(pair, -1).flatten(-2) if interleaved else torch.cat(pair, -1)
    result = torch.cat([turned, rest], -1)
    return result.transpose(1, 2).flatten(2) if packed else result
