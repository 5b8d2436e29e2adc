"""Training in seconds on one core, and export by both exporters of torch."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.certificates.entry import Draw

Batch = Mapping[str, Tensor]
LossOf = Callable[[nn.Module, Batch], Tensor]
POOL = 4096
OPSET = 17


def trained(
    make: Callable[[], nn.Module],
    draw: Draw,
    loss: LossOf,
    *,
    steps: int = 300,
    batch: int = 64,
    rate: float = 4e-3,
    seed: int = 0,
    pool: int = POOL,
) -> nn.Module:
    """A network trained by AdamW on samples of its distribution, the learning rate falling to 0; in evaluation mode.

    Batches come from a pool that is drawn once. The samples of a job are drawn from other seeds.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    network = make()
    generator = np.random.default_rng(7_000 + seed)
    arrays = {name: torch.from_numpy(array) for name, array in draw(generator, pool).items()}
    optimizer = torch.optim.AdamW(network.parameters(), rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    network.train()
    for _ in range(steps):
        chosen = torch.from_numpy(generator.integers(0, pool, batch))
        value = loss(network, {name: array[chosen] for name, array in arrays.items()})
        optimizer.zero_grad()
        torch.autograd.backward(value)
        optimizer.step()
        schedule.step()
    return network.eval()


def exported(
    network: nn.Module,
    example: Mapping[str, np.ndarray],
    outputs: Sequence[str],
    *,
    dynamo: bool = False,
    fixed_batch: bool = False,
    batch_axes: Mapping[str, int] | None = None,
    free: Mapping[str, Mapping[int, str]] | None = None,
    opset: int = OPSET,
) -> bytes:
    """The ONNX file; its inputs are the members of `example` (in the layout of the graph), in order.

    The axis of samples is free (`batch_axes`: where it is not the first), and so are the axes that `free` names.
    `opset` is that of the older exporter; the newer one takes its own.
    """
    names = list(example)
    arguments = tuple(torch.from_numpy(np.ascontiguousarray(array)) for array in example.values())
    axes = batch_axes or {}
    dynamic = {name: {axes.get(name, 0): "batch", **(free or {}).get(name, {})} for name in [*names, *outputs]}
    network.eval()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # both exporters warn about themselves
        if not dynamo:
            buffer = io.BytesIO()
            torch.onnx.export(
                network,
                arguments,
                buffer,  # type: ignore[arg-type]  # the old exporter takes a buffer
                dynamo=False,
                opset_version=opset,
                input_names=names,
                output_names=list(outputs),
                dynamic_axes=None if fixed_batch else dynamic,
            )
            return buffer.getvalue()
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        shapes = tuple({axis: torch.export.Dim(label) for axis, label in dynamic[name].items()} for name in names)
        program = torch.onnx.export(
            network,
            arguments,
            dynamo=True,
            verbose=False,
            input_names=names,
            output_names=list(outputs),
            dynamic_shapes=None if fixed_batch else shapes,
        )
        assert program is not None
        contents: bytes = program.model_proto.SerializeToString()
        return contents
