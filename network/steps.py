"""The nodes of a graph compiled to steps, each with the rule that computes it, and how steps run.

The inner graphs of If, Loop and Scan are compiled with the node that has them; what they read from outside are further
inputs of its step, so that a weight is the same parameter wherever it is read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from onnx import AttributeProto, GraphProto, NodeProto
from torch import Tensor

import network.operators  # noqa: F401  (importing it fills the registry)
from network.codes import MAKERS, codes_read_otherwise
from network.errors import ModelInvalid, NetworkError, UnsupportedOperators
from network.graph import Layer, Network
from network.onnx_graph import is_standard, label, names_read, own_inputs
from network.operators.node import SMALL_INTEGERS, Node, Value, read_node, tensor_of
from network.operators.registry import Rule, lookup
from network.opset import newer_meaning

CPU = torch.device("cpu")

Through = Callable[[Tensor], Tensor]
Values = dict[str, Value]

_KEEPS_TYPE = frozenset(
    {"CastLike", "Concat", "Constant", "Flatten", "Gather", "Identity", "Pad", "Reshape", "Slice", "Split", "Squeeze"}
    | {"Transpose", "Unsqueeze"}
)


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One node with its rule: the names it reads ("" for an input left out) and makes ("" for an unused output).

    What inner graphs read from outside follows the inputs of the node. `released` are the names that nothing reads
    after this step. `layer` is the layer that the node is, if any; of a recurrent node that of its states.
    """

    node: Node
    rule: Rule
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    released: tuple[str, ...]
    layer: Layer | None


@dataclass(frozen=True, slots=True, eq=False)
class Body:
    """An inner graph as a function of its inputs, and of what it reads from outside by name."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    steps: tuple[Step, ...]
    constants: Mapping[str, Tensor]

    def __call__(self, inputs: Sequence[Value], outer: Mapping[str, Value]) -> tuple[Value, ...]:
        values = {**outer, **self.constants, **dict(zip(self.inputs, inputs, strict=True))}
        run_steps(self.steps, values)
        return tuple(values[name] for name in self.outputs)


def run_steps(steps: Sequence[Step], values: Values, through: Mapping[str, Through] | None = None) -> None:
    """Add what the steps make to `values`, and take out what is released; `through` as in `TorchNetwork.run`.

    Raises:
        UnsupportedOperators: torch does not compute a node from its values; the text names the node.
        MemoryError, torch.OutOfMemoryError: there is too little memory for it.
    """
    for step in steps:
        _run_step(step, values, through or {})


def _run_step(step: Step, values: Values, through: Mapping[str, Through]) -> None:
    """A function of its own, so that no local name holds a value that is released while the next step runs."""
    operands = [values[name] if name else None for name in step.inputs]
    results = _computed(step, operands if step.rule.keeps_devices else _on_one_device(step.rule, operands))
    for name, result in zip(step.outputs, results, strict=False):
        if name:
            values[name] = _sent(step, through[name], result) if name in through else result
    for name in step.released:
        del values[name]


def _sent(step: Step, through: Through, result: Value) -> Tensor:
    if not isinstance(result, Tensor):
        raise UnsupportedOperators(
            f"{step.node.op_type} (node {step.node.name!r}) makes a sequence, which cannot be changed on its way; "
            "export the model without sequences"
        )
    return through(result)


def compile_steps(network: Network, dtype: torch.dtype) -> tuple[Step, ...]:
    """The nodes of `network` with their rules, in graph order.

    Raises:
        UnsupportedOperators: nodes without a rule; the text names every such operator and node.
        ModelInvalid: a node reads, or the graph returns, a value that nothing makes.
    """
    compiler = _Compiler(network, dtype)
    graph = network.proto.graph
    steps = compiler.steps_of(graph, _Uses.of(graph, [spec.name for spec in network.outputs], set()))
    if compiler.missing:
        raise UnsupportedOperators(
            f"operators without a rule: {', '.join(_used_by(*item) for item in sorted(compiler.missing.items()))}; "
            "export the model without them, or end its graph before them"
        )
    _require_values(network)
    return steps


@dataclass(frozen=True, slots=True)
class _Uses:
    """What becomes of the values of a graph: those that it returns, that nodes read, that codes are read from as
    integers, and that are integers of 4 bits or less, which are kept in 8."""

    returned: frozenset[str]
    read: frozenset[str]
    as_integers: frozenset[str]
    small: set[str]

    @classmethod
    def of(cls, graph: GraphProto, outputs: Sequence[str], small: set[str]) -> _Uses:
        """Of a graph that returns `outputs`; `small` are values of 4 bits or less around it."""
        own = {tensor.name for tensor in graph.initializer if tensor.data_type in SMALL_INTEGERS}
        read = frozenset[str]().union(*(names_read(proto) for proto in graph.node))
        return cls(frozenset(outputs), read, frozenset(codes_read_otherwise(graph, outputs)), small | own)

    def has(self, name: str) -> bool:
        return name in self.returned or name in self.read

    def outputs_of(self, proto: NodeProto) -> int:
        """The number of outputs up to the last that is used."""
        return max((number for number, name in enumerate(proto.output, 1) if self.has(name)), default=0)

    def obstacle(self, proto: NodeProto) -> str | None:
        """Why a node cannot be computed for what becomes of its values; nodes are asked about in their order."""
        if proto.op_type in MAKERS and proto.output[0] in self.as_integers & self.read:
            return "codes that are read as integers"
        holds_small = any(a.type == AttributeProto.TENSOR and a.t.data_type in SMALL_INTEGERS for a in proto.attribute)
        if not holds_small and not self.small.intersection(proto.input):
            return None
        if proto.op_type in _KEEPS_TYPE:
            self.small.update(proto.output)
        into = {"CastLike": 1, "QuantizeLinear": 2}.get(proto.op_type, len(proto.input))
        return "a type of 4 bits or less" if self.small.intersection(proto.input[into : into + 1]) else None


class _Compiler:
    """Compiles the graphs of a network; `missing` are the nodes without a rule, by what has none."""

    def __init__(self, network: Network, dtype: torch.dtype) -> None:
        self._opset = network.opset
        self._dtype = dtype
        self._layers = {layer.name: layer for layer in network.layers()}
        self.missing: dict[str, list[str]] = {}

    def steps_of(self, graph: GraphProto, uses: _Uses, *, inner: bool = False) -> tuple[Step, ...]:
        """The steps of a graph whose values have these uses."""
        resolved = [self._resolved(proto, uses) for proto in graph.node]
        needed = set(uses.returned)
        steps: list[Step] = []
        for proto, found in zip(reversed(graph.node), reversed(resolved), strict=True):
            if found is None:
                continue
            node, rule = found
            inputs = (*proto.input, *node.captured)
            made = tuple(name if uses.has(name) else "" for name in proto.output[: node.output_count])
            names = dict.fromkeys(name for name in (*inputs, *made) if name)
            released = tuple(name for name in names if name not in needed)
            needed.update(released)
            layer = None if inner else self._layers.get(proto.name)
            steps.append(Step(node, rule, inputs, made, released, layer))
        return tuple(reversed(steps))

    def _resolved(self, proto: NodeProto, uses: _Uses) -> tuple[Node, Rule] | None:
        """The node with its rule, or None and a reason among those missing."""
        operator = proto.op_type if is_standard(proto) else f"{proto.domain}.{proto.op_type}"
        rule = lookup(operator, self._opset)
        if rule is None:
            if lookup(operator, 1 << 31) is not None:
                operator = f"{operator} of opset {self._opset}"
            self.missing.setdefault(operator, []).append(label(proto))
            return None
        node = read_node(proto, self._opset, self._dtype, uses.outputs_of(proto))
        reason = newer_meaning(proto, self._opset) if is_standard(proto) else None
        if reason is not None:
            self.missing.setdefault(f"{operator} of opset {self._opset} {reason}", []).append(label(proto))
        reason = uses.obstacle(proto) or (rule.refuses(node) if rule.refuses is not None else None)
        if reason is not None:
            self.missing.setdefault(f"{operator} with {reason}", []).append(label(proto))
        if proto.op_type in MAKERS:
            node = dataclasses.replace(node, codes_pass_gradients=proto.output[0] not in uses.as_integers)
        return self._with_bodies(proto, node, uses.small), rule

    def _with_bodies(self, proto: NodeProto, node: Node, small: set[str]) -> Node:
        """The node with its inner graphs compiled, and the names that they read from outside."""
        graphs = {a.name: a.g for a in proto.attribute if a.type == AttributeProto.GRAPH}
        if not graphs:
            return node
        bodies = {name: self._body(graph, small) for name, graph in graphs.items()}
        captured = tuple(dict.fromkeys(list(names_read(proto))[sum(map(bool, proto.input)) :]))
        return dataclasses.replace(node, attributes={**node.attributes, **bodies}, captured=captured)

    def _body(self, graph: GraphProto, small: set[str]) -> Body:
        outputs = tuple(value.name for value in graph.output)
        steps = self.steps_of(graph, _Uses.of(graph, outputs, small), inner=True)
        constants = {tensor.name: tensor_of(tensor, self._dtype) for tensor in graph.initializer}
        return Body(tuple(value.name for value in own_inputs(graph)), outputs, steps, constants)


def _used_by(operator: str, nodes: Sequence[str]) -> str:
    names = ", ".join(repr(name) for name in nodes)
    return f"{operator} ({'node' if len(nodes) == 1 else 'nodes'} {names})"


def _require_values(network: Network) -> None:
    """Every value that is read is made before: an input, an initializer, or the output of an earlier node."""
    made = {"", *(spec.name for spec in network.inputs), *network.initializers}
    for proto in network.proto.graph.node:
        for name in names_read(proto):
            if name not in made:
                raise ModelInvalid(
                    f"node {proto.name!r} ({proto.op_type}) reads {name!r}, which no input, initializer or earlier "
                    "node makes; order the nodes topologically"
                )
        made.update(proto.output)
    for spec in network.outputs:
        if spec.name not in made:
            raise ModelInvalid(f"the graph returns {spec.name!r}, which no node makes; export the model again")


def _computed(step: Step, operands: Sequence[Value | None]) -> Sequence[Value]:
    """What the rule makes of its operands: whatever torch has against them is a node that is not supported."""
    try:
        results = step.rule(step.node, operands)
    except (NetworkError, MemoryError):
        raise
    except Exception as error:
        if _is_out_of_memory(error):
            raise
        text = next(iter(str(error).splitlines()), type(error).__name__)
        raise UnsupportedOperators(
            f"{step.node.op_type} (node {step.node.name!r}) is not computed from such values: {text}; "
            "export the model without it, or end its graph before it"
        ) from error
    if len(results) < step.node.output_count:
        raise UnsupportedOperators(
            f"{step.node.op_type} (node {step.node.name!r}) has {step.node.output_count} outputs, of which "
            f"{len(results)} are computed; export the model without the others"
        )
    return results


def _is_out_of_memory(error: Exception) -> bool:
    """On an accelerator torch has a class for it, on the CPU a text."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def _on_one_device(rule: Rule, operands: Sequence[Value | None]) -> list[Value | None]:
    """The operands on one device: those in CPU memory join the others, but for the ones read as Python numbers."""
    tensors = [x for i, x in enumerate(operands) if isinstance(x, Tensor) and i not in rule.host]
    target = next((x.device for x in tensors if x.device != CPU), CPU)
    if target == CPU:
        return list(operands)
    return [x.to(target) if isinstance(x, Tensor) and i not in rule.host else x for i, x in enumerate(operands)]
