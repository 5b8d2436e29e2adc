"""Differentiable execution of a normalised network in torch.

The graph is compiled once into a list of steps. A run walks the list; every value is dropped after its last use, so
that without gradients no more is held than the graph needs (with them, autograd keeps what it needs).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx
import torch
from torch import Tensor

import network.operators  # noqa: F401  (importing it fills the registry)
from network.errors import ModelInvalid, UnsupportedOperators
from network.graph import Layer, Network
from network.onnx_graph import is_standard, label
from network.operators.node import Node, read_node, tensor_of
from network.operators.registry import Rule, lookup
from network.opset import newer_meaning

CPU = torch.device("cpu")

Through = Callable[[Tensor], Tensor]

_Values = dict[str, Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One node with its rule: the names it reads ("" for an input left out) and makes ("" for an unused output).

    `released` are the names that nothing reads after this step. `layer` is the layer that the node is, if any; of a
    recurrent node that of its states.
    """

    node: Node
    rule: Rule
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    released: tuple[str, ...]
    layer: Layer | None


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
        for step in self._steps:
            self._execute(step, values, through)
        outputs = [self.network.batching.by_sample(spec.name, values[spec.name]) for spec in self.network.outputs]
        return [x.to(self.device) if x.is_floating_point() else x for x in outputs]

    def _initial_values(self, inputs: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> _Values:
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

    def _execute(self, step: Step, values: _Values, through: Mapping[str, Through]) -> None:
        operands = [values[name] if name else None for name in step.inputs]
        if self.device != CPU:
            operands = _on_one_device(step.rule, operands)
        try:
            results = step.rule(step.node, operands)
        except Exception as error:
            error.add_note(f"in node {step.node.name!r} ({step.node.op_type})")
            raise
        for name, result in zip(step.outputs, results, strict=False):
            if name:
                values[name] = through[name](result) if name in through else result
        for name in step.released:
            del values[name]


def differentiable(network: Network) -> TorchNetwork:
    """The network with gradients, on the accelerator that torch finds, else on the CPU.

    Raises:
        UnsupportedOperators: nodes without a rule; the text names every such operator and node.
    """
    return TorchNetwork(network, device="cuda" if torch.cuda.is_available() else "cpu")


def compile_steps(network: Network, dtype: torch.dtype) -> tuple[Step, ...]:
    """The nodes of `network` with their rules, in graph order.

    Raises:
        UnsupportedOperators, ModelInvalid: see `TorchNetwork`.
    """
    resolved = _resolve(network, dtype)
    _require_values(network)
    layers = {layer.name: layer for layer in network.layers()}
    needed = {spec.name for spec in network.outputs}
    steps: list[Step] = []
    for proto, node, rule in reversed(resolved):
        names = dict.fromkeys(name for name in (*proto.input, *proto.output) if name)
        released = tuple(name for name in names if name not in needed)
        needed.update(released)
        steps.append(Step(node, rule, tuple(proto.input), tuple(proto.output), released, layers.get(proto.name)))
    return tuple(reversed(steps))


def _resolve(network: Network, dtype: torch.dtype) -> list[tuple[onnx.NodeProto, Node, Rule]]:
    """Each node with its rule; all that have none in one error."""
    resolved: list[tuple[onnx.NodeProto, Node, Rule]] = []
    missing: dict[str, list[str]] = {}
    for proto in network.proto.graph.node:
        operator = proto.op_type if is_standard(proto) else f"{proto.domain}.{proto.op_type}"
        rule = lookup(operator, network.opset)
        if rule is None:
            if lookup(operator, 1 << 31) is not None:
                operator = f"{operator} of opset {network.opset}"
            missing.setdefault(operator, []).append(label(proto))
            continue
        node = read_node(proto, network.opset, dtype)
        reason = newer_meaning(proto, network.opset) if is_standard(proto) else None
        if reason is not None:
            missing.setdefault(f"{operator} of opset {network.opset} {reason}", []).append(label(proto))
        reason = rule.refuses(node) if rule.refuses is not None else None
        if reason is not None:
            missing.setdefault(f"{operator} with {reason}", []).append(label(proto))
        resolved.append((proto, node, rule))
    if missing:
        raise UnsupportedOperators(
            f"operators without a rule: {', '.join(_used_by(*item) for item in sorted(missing.items()))}; "
            "export the model without them, or end its graph before them"
        )
    return resolved


def _used_by(operator: str, nodes: Sequence[str]) -> str:
    names = ", ".join(repr(name) for name in nodes)
    return f"{operator} ({'node' if len(nodes) == 1 else 'nodes'} {names})"


def _require_values(network: Network) -> None:
    """Every value that is read is made before: an input, an initializer, or the output of an earlier node."""
    made = {"", *(spec.name for spec in network.inputs), *network.initializers}
    for proto in network.proto.graph.node:
        for name in proto.input:
            if name not in made:
                raise ModelInvalid(
                    f"node {proto.name!r} ({proto.op_type}) reads {name!r}, which no input, initializer or earlier "
                    "node makes; order the nodes topologically"
                )
        made.update(proto.output)
    for spec in network.outputs:
        if spec.name not in made:
            raise ModelInvalid(f"the graph returns {spec.name!r}, which no node makes; export the model again")


def _on_one_device(rule: Rule, operands: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The operands on one device: those in CPU memory join the others, but for the ones read as Python numbers."""
    target = next(
        (x.device for i, x in enumerate(operands) if x is not None and i not in rule.host and x.device != CPU),
        CPU,
    )
    return [x if x is None or i in rule.host else x.to(target) for i, x in enumerate(operands)]
