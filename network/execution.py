"""Differentiable execution of a normalised network in torch.

The graph is compiled once into a list of steps. A run walks the list; every value is dropped after its last use, so
that without gradients no more is held than the graph needs (with them, autograd keeps what it needs).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from network.graph import Network
from network.operators.node import tensor_of
from network.steps import CPU, Through, Values, compile_steps, run_steps


class TorchNetwork:
    """A network as a differentiable function of its inputs and parameters.

    Every floating tensor has the one `dtype`, whatever the file says, and lives on `device`. Integers keep their
    type; they, and whatever is read as a number, stay in CPU memory, and are copied where they meet a tensor on
    `device`.

    `parameters` holds every floating initializer by its ONNX name, one tensor to a name however often it is used;
    those that are the weight of a site require a gradient.

    Raises:
        UnsupportedOperators: nodes without a rule; the text names every such operator and node.
        ModelInvalid: a node reads, or the graph returns, a value that nothing makes.
    """

    def __init__(
        self, network: Network, *, dtype: torch.dtype = torch.float32, device: str | torch.device = CPU
    ) -> None:
        self.network = network
        self.dtype = dtype
        self.device = torch.device(device)
        self._steps = compile_steps(network, dtype)
        tensors = {proto.name: tensor_of(proto, dtype) for proto in network.proto.graph.initializer}
        weights = {site.weight for site in network.sites}
        # A float that is only ever read as a Python number (the scales of Resize) stays where reading is free.
        computed = {name for s in self._steps for i, name in enumerate(s.inputs) if i not in s.rule.host}
        self.parameters: dict[str, Tensor] = {
            name: tensor.to(self.device if name in computed else CPU).requires_grad_(name in weights)
            for name, tensor in tensors.items()
            if tensor.is_floating_point()
        }
        self._constants = {name: t for name, t in tensors.items() if not t.is_floating_point()}

    def run(
        self,
        inputs: Mapping[str, Tensor],
        parameters: Mapping[str, Tensor] | None = None,
        through: Mapping[str, Through] | None = None,
    ) -> list[Tensor]:
        """The outputs in graph order, twice differentiable in the parameters, and in inputs that require it.

        Inputs and outputs are `[samples, ...]`, of samples that may share a call (`Batching.groups`).

        `parameters` stand in for those of the network, by name; the others stay. `through` sends values on their way:
        the graph input or node output of that name is replaced by the function's result as soon as it exists, for
        everything that reads it and for the outputs.

        Raises:
            ValueError: an input is missing or unknown, a parameter is unknown, or `through` names no value.
        """
        through = through or {}
        values = self._initial_values(inputs, parameters or {})
        self._require_made(through)
        for name in inputs:
            if name in through:
                values[name] = through[name](values[name])
        run_steps(self._steps, values, through)
        outputs = [self.network.batching.by_sample(spec.name, values[spec.name]) for spec in self.network.outputs]
        return [x.to(self.device) if x.is_floating_point() else x for x in outputs]

    def _initial_values(self, inputs: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> Values:
        expected = [spec.name for spec in self.network.inputs]
        if set(inputs) != set(expected):
            raise ValueError(f"inputs are {sorted(inputs)}, expected {sorted(expected)}: name them as the graph")
        unknown = sorted(set(parameters) - set(self.parameters))
        if unknown:
            raise ValueError(f"no parameter is called {unknown}; expected names among `parameters`")
        arrays = {
            name: x.to(self.device, self.dtype) if x.is_floating_point() else x
            for name, x in self.network.batching.call_of_tensors(inputs).items()
        }
        return {**self._constants, **self.parameters, **parameters, **arrays}

    def _require_made(self, names: Iterable[str]) -> None:
        made = {spec.name for spec in self.network.inputs}.union(*(step.outputs for step in self._steps)) - {""}
        unknown = sorted(set(names) - made)
        if unknown:
            raise ValueError(f"no value is called {unknown}; expected names of graph inputs or of outputs of nodes")


def differentiable(network: Network) -> TorchNetwork:
    """The network with gradients, on the accelerator that torch finds, else on the CPU.

    Raises:
        UnsupportedOperators: nodes without a rule; the text names every such operator and node.
    """
    return TorchNetwork(network, device="cuda" if torch.cuda.is_available() else "cpu")
