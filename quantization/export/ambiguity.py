"""What would let a file mean something else to ONNX Runtime than it does to whoever looks things up by their names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import onnx

from network.onnx_graph import STANDARD_DOMAINS, graphs, is_external, messages
from quantization.errors import FileNotAudited
from quantization.export.matmul_nbits import DOMAIN as RUNTIME
from quantization.storage.unpacking import DOMAIN


def check_unambiguous(model: onnx.ModelProto) -> None:
    """That the file holds all values, a name stands for one thing, and an operator for what its domain says.

    Raises:
        FileNotAudited: a tensor has its values outside of the file, two functions have one name, an operator of ONNX or
            ONNX Runtime is defined anew, a function or call of ours is an overload (an overload is called by more than
            its name), two initializers of a graph have one name, or one within a node has the name of one of the main
            graph.
    """
    for tensor in (message for message in messages(model) if isinstance(message, onnx.TensorProto)):
        if is_external(tensor):
            raise FileNotAudited(
                f"tensor {tensor.name} has its values outside of the file; only self-contained files are audited: save "
                "it with onnx.save_model(..., save_as_external_data=False)"
            )
    _check_each_once((f"{f.domain}.{f.name}" for f in model.functions), "functions")
    for function in model.functions:
        if function.domain in (*STANDARD_DOMAINS, RUNTIME):
            raise FileNotAudited(f"the file defines {function.name}, an operator of {function.domain or 'ONNX'}, anew")
        if function.domain == DOMAIN and function.overload:
            raise FileNotAudited(f"function {function.name} is an overload, {function.overload!r}; we write none")
    main = model.graph
    outer = set(_initializers(main))
    for graph in graphs(main):
        names = _initializers(graph)
        _check_each_once(names, "initializers")
        if graph is not main and (hidden := outer.intersection(names)):
            raise FileNotAudited(f"initializers {', '.join(sorted(hidden))} of the main graph are hidden by inner ones")
        for node in graph.node:
            if node.overload and node.domain in (DOMAIN, RUNTIME):
                raise FileNotAudited(f"node {node.name} calls an overload of {node.op_type}, {node.overload!r}")


def _initializers(graph: onnx.GraphProto) -> list[str]:
    return [*(tensor.name for tensor in graph.initializer), *(t.values.name for t in graph.sparse_initializer)]


def _check_each_once(names: Iterable[str], what: str) -> None:
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise FileNotAudited(f"several {what} are called {', '.join(sorted(twice))}")
