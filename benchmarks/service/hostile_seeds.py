"""Small sound networks of many operators, which hostile files are made from, with samples that fit them."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cache

import numpy as np

from benchmarks.networks.networks import build

SAMPLES = 64

NAMES = (
    *("branches", "shared_by_branches", "loop_body", "scan_body", "loop_outside", "super_resolution", "style_transfer"),
    *("low_rank", "chunks", "sequences", "fourier", "functions", "nonzero", "newest", "suppressed", "roi_align"),
    *("best_three", "scalar_input", "constant_input", "time_first", "state_middle", "fixed_four", "batch_second"),
    *("outputs_of_all_kinds", "undeclared_shapes", "byte_image", "weights_as_inputs", "lowest_mask", "boolean_mask"),
    *("ir3_opset7", "upsample9", "resize10", "softmax11", "crossed_clip", "opset9_lstm", "split_weight"),
    *("einsum_weights", "tied_head", "attention23", "used_twice", "made_weights", "left_constant", "partly_quantized"),
    *("dynamic_part", "wholly_quantized", "batch_mixed", "merged_decoder", "voice_activity", "acoustic", "synthesis"),
    *("stacked_cache", "sequence_lengths", "quantities", "half", "double", "bfloat16_weights", "float16_storage"),
    *("sparse", "fused", "epsilon", "trees"),
)
"""Of the zoo of networks, those that take kilobytes and a moment to make."""


@dataclass(frozen=True, slots=True)
class Seed:
    """A sound network and an archive of samples for it."""

    name: str
    model: bytes
    dataset: bytes


@cache
def sound(name: str) -> Seed:
    """The network of that name, with few samples."""
    network = build(name)
    return Seed(name, network.model, npz({key: array[:SAMPLES] for key, array in network.samples.items()}))


def npz(arrays: dict[str, np.ndarray]) -> bytes:
    """An archive as `numpy.savez` writes it."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # names of ours
    return buffer.getvalue()
