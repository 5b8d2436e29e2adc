"""Which operators and versions are known here: ONNX defines some, ONNX Runtime others, and the file itself the rest.

A file is refused for what nobody defines, and told apart from one that is newer than the libraries here.
"""

from __future__ import annotations

from functools import cache

import onnx
import onnxruntime
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, helper
from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

from network.errors import CustomOperators, ModelInvalid, ModelTooNew, RandomOperators, listing
from network.onnx_graph import STANDARD_DOMAINS, is_standard, nodes, standard_imports
from network.runtime import RUNTIME_FAILURES, session_of

OFFICIAL_DOMAINS = (*STANDARD_DOMAINS, "ai.onnx.ml", "ai.onnx.preview", "ai.onnx.preview.training", "ai.onnx.training")
"""Those of ONNX itself."""

OPSET_OF_NO_OPERATOR = 18
"""Of the standard operator set, where a file has no operator of it and imports none."""

_RANDOM = frozenset(
    ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial", "Sampling")
)

_OLD_IR_VERSION = 8  # that every version of ONNX Runtime reads

FunctionKey = tuple[str, str, str]


def function_key(call: FunctionProto | NodeProto) -> FunctionKey:
    """What a call and the function that it calls have in common."""
    name = call.name if isinstance(call, FunctionProto) else call.op_type
    return (call.domain, name, call.overload)


@cache
def runtime_operators() -> dict[tuple[str, str], int]:
    """Every operator that ONNX Runtime defines, by domain and name, with its newest version; "" is the standard."""
    versions: dict[tuple[str, str], int] = {}
    for schema in get_all_operator_schema():
        key = (schema.domain, schema.name)
        versions[key] = max(versions.get(key, 0), schema.since_version)
    return versions


@cache
def newest_versions() -> tuple[int, int]:
    """The newest opset and the newest IR version that both onnx and ONNX Runtime read."""
    opset = next(v for v in range(onnx.defs.onnx_opset_version(), 0, -1) if _is_read(v, _OLD_IR_VERSION))
    return opset, next(v for v in range(onnx.IR_VERSION, 0, -1) if _is_read(OPSET_OF_NO_OPERATOR, v))


def _is_read(opset: int, ir_version: int) -> bool:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "version", [x], [y])
    try:
        session_of(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version), 1)
    except RUNTIME_FAILURES:
        return False
    return True


def opset_version(model: ModelProto) -> int:
    """The version of the standard operator set; onnx's own checker takes several, and versions to come.

    Raises:
        ModelInvalid: there is none, or several.
        ModelTooNew: it is newer than what runs here.
    """
    versions = sorted({entry.version for entry in standard_imports(model)})
    if not versions and not any(is_standard(node) for node in nodes(model.graph)):
        return OPSET_OF_NO_OPERATOR
    newest, _ = newest_versions()
    if len(versions) != 1 or versions[0] < 1:
        got = ", ".join(map(str, versions)) or "none"
        raise ModelInvalid(
            f"the model imports opset {got} of the standard operators; expected one opset from 1 to {newest}: export "
            "it again"
        )
    if versions[0] > newest:
        raise ModelTooNew(
            f"the model imports opset {versions[0]}; the newest that onnx {onnx.__version__} and ONNX Runtime "
            f"{onnxruntime.__version__} run here is {newest}: export it with opset {newest} or older"
        )
    return int(versions[0])


def check_ir_version(model: ModelProto) -> None:
    """Refuse what no library here reads.

    Raises:
        ModelTooNew: the file is of a newer format than what is read here.
    """
    _, newest = newest_versions()
    if model.ir_version > newest:
        raise ModelTooNew(
            f"the model has IR version {model.ir_version}; the newest that onnx {onnx.__version__} and ONNX Runtime "
            f"{onnxruntime.__version__} read here is {newest}: export it with an older onnx, or set ir_version to "
            f"{newest}"
        )


def check_operators(model: ModelProto, version: int | None = None) -> None:
    """Only operators that ONNX, ONNX Runtime or the file itself defines; nodes of functions count.

    Args:
        model: not changed.
        version: of the standard operators; None where ONNX Runtime is to judge.

    Raises:
        CustomOperators: nobody defines some; the text names them and their nodes.
        ModelInvalid: the opset is older than an operator.
    """
    functions = {function_key(function) for function in model.functions}
    unknown: dict[str, list[str]] = {}
    early: dict[str, list[str]] = {}
    domains: set[str] = set()
    holders: list[GraphProto | FunctionProto] = [model.graph, *model.functions]
    for node in (node for holder in holders for node in nodes(holder)):
        domain = "" if is_standard(node) else node.domain
        if function_key(node) in functions or _is_defined(node, domain, version):
            continue
        if domain == "" and (since := _first_version(node.op_type)) and version is not None and since > version:
            early.setdefault(f"{node.op_type}, new in opset {since}", []).append(node_name(node))
        else:
            unknown.setdefault(".".join(filter(None, (domain, node.op_type))), []).append(node_name(node))
            domains.add(domain)
    if unknown:
        known = sorted(domains.intersection(_known_domains()) - {""})
        raise CustomOperators(
            f"the model uses operators that neither ONNX, nor ONNX Runtime {onnxruntime.__version__}, nor the file "
            f"itself defines: {_users(unknown)}. "
            + (f"Of {listing(known)} only other operators, or older versions, are known here. " if known else "")
            + "Export it without them, or with functions that define them"
        )
    if early:
        raise ModelInvalid(
            f"the model imports opset {version}, which is older than operators that it uses: {_users(early)}; export "
            "it with a newer opset"
        )


def _is_defined(node: NodeProto, domain: str, version: int | None) -> bool:
    if domain == "" and version is not None and onnx.defs.has(node.op_type, version, ""):
        return True
    known = runtime_operators()
    return (domain, node.op_type) in known and (version is None or domain != "" or is_of_runtime_alone(node, version))


def is_of_runtime_alone(node: NodeProto, opset: int) -> bool:
    """Whether ONNX Runtime counts the operator among the standard ones of an opset although ONNX does not."""
    first = _first_in_runtime().get(node.op_type, opset + 1)
    return is_standard(node) and first <= opset and not onnx.defs.has(node.op_type, opset, "")


@cache
def _first_in_runtime() -> dict[str, int]:
    """Every operator that ONNX Runtime counts among the standard ones, with its oldest version."""
    versions: dict[str, int] = {}
    for schema in get_all_operator_schema():
        if schema.domain == "":
            versions[schema.name] = min(versions.get(schema.name, schema.since_version), schema.since_version)
    return versions


def _first_version(op_type: str) -> int:
    """Of a standard operator; 0 where ONNX has none of this name."""
    schemas = onnx.defs.get_all_schemas_with_history()
    versions = [s.since_version for s in schemas if s.name == op_type and s.domain == ""]
    return min(versions, default=0)


def _known_domains() -> set[str]:
    return {*OFFICIAL_DOMAINS, *(domain for domain, _ in runtime_operators())}


def _users(operators: dict[str, list[str]]) -> str:
    return "; ".join(f"{name} ({listing(users)})" for name, users in sorted(operators.items()))


def check_random(model: ModelProto) -> None:
    """Refuse a model whose outputs change by themselves.

    Raises:
        RandomOperators: names the nodes.
    """
    if random := [f"{node_name(n)} ({n.op_type})" for n in nodes(model.graph) if n.op_type in _RANDOM]:
        raise RandomOperators(
            f"the model draws random numbers: {listing(random)}. What it loses cannot be measured when its outputs "
            "change by themselves; export it for inference, without them"
        )


def settle_imports(model: ModelProto, version: int) -> None:
    """Import what the nodes need, in place: the standard operators under one spelling, those of ONNX Runtime also
    where the file forgets to, and nothing else."""
    versions = {entry.domain: entry.version for entry in model.opset_import}
    used = {node.domain for node in nodes(model.graph) if not is_standard(node)}
    for node in nodes(model.graph):
        if is_standard(node):
            node.ClearField("domain")
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", version))
    for domain in sorted(used):
        newest = max((own for (known, _), own in runtime_operators().items() if known == domain), default=1)
        model.opset_import.append(helper.make_opsetid(domain, versions.get(domain, newest)))


def node_name(node: NodeProto) -> str:
    """What to call a node in a text."""
    return f"node {node.name!r}" if node.name else f"the node that makes {next(filter(None, node.output), '?')!r}"
