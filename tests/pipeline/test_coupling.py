"""Bit operations and latencies of pairs of decisions: every plan of small networks against the definition."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from network.graph import Network
from network.normalise import normalise
from pipeline.candidates import Candidates
from pipeline.coupling import Coupling
from pipeline.latency_table import LatencyTable, entry
from pipeline.plan_rows import UNCOUNTED, UNUSED, PlanFacts, layer_rows
from pipeline.reach import planned_activations
from pipeline.search_space import SearchSpace
from planner.errors import ConstraintImpossible, LimitUnreachable, NotApplicable
from planner.interactions import frontier_within
from planner.merge import MergedProblem
from planner.problem import Limits, Plan, Problem, Quantity
from quantization.formats import UnsignedFormat, parse_format
from tests.pipeline.conftest import configured

WEIGHTS = ["int4/channel", "int8/channel"]
ACTIVATIONS = ["uint4/tensor", "uint8/tensor"]
# what each layer reads, and its multiply-accumulates, counted by hand
CONVNET = {"conv1": [("image", 8 * 8 * 12 * 9)], "conv2": [("r1", 3 * 3 * 24 * 12 * 9)], "fc": [("r2", 216 * 10)]}
# one weight after an activation and after the next: two decisions beside its own
TIED = {"w": [("x", 16), ("h", 16)], "v": [("y", 8)]}
BRANCHES = {f"w{index}": [("x", 12)] for index in range(4)}


def space_of(
    network: Network,
    allowed: Mapping[str, Sequence[str]],
    tied: Sequence[Sequence[str]] = (),
    table: LatencyTable | None = None,
    **request: Any,
) -> SearchSpace:
    """The space of a job for bit operations, or whatever the request says."""
    config = configured(**{"objective": "bit_operations", **request}).resolve.space
    space = SearchSpace.build(network, config, allowed, tied)
    return space if table is None else space.completed(table)


def perceptron(nodes: list[onnx.NodeProto], shapes: dict[str, tuple[int, int]], output: str) -> Network:
    """MatMuls of `shapes` on 4 inputs."""
    generator = np.random.default_rng(0)
    graph = helper.make_graph(
        nodes,
        "perceptron",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(generator.normal(size=s).astype(np.float32), name) for name, s in shapes.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return normalise(model, {"x": (4,)})


@pytest.fixture(scope="module")
def networks(model) -> dict[str, tuple[Network, dict[str, list[tuple[str, int]]]]]:
    """Networks, and for each weight the activations that its layers read with their multiply-accumulates."""
    node = helper.make_node
    tied = [
        node("MatMul", ["x", "w"], ["a"], name="w"),
        node("Relu", ["a"], ["h"]),
        node("MatMul", ["h", "w"], ["b"], name="w_again"),
        node("Relu", ["b"], ["y"]),
        node("MatMul", ["y", "v"], ["z"], name="v"),
    ]
    branches = [node("MatMul", ["x", name], [f"y_{name}"], name=name) for name in BRANCHES]
    branches.append(node("Concat", [f"y_{name}" for name in BRANCHES], ["z"], axis=1))
    return {
        "convnet": (normalise(onnx.ModelProto.FromString(model), {"image": (1, 8, 8)}), CONVNET),
        "tied": (perceptron(tied, {"w": (4, 4), "v": (4, 2)}, "z"), TIED),
        "branches": (perceptron(branches, dict.fromkeys(BRANCHES, (4, 3)), "z"), BRANCHES),
    }


def allowed_in(network: Network, activations: Sequence[str] = ACTIVATIONS) -> dict[str, list[str]]:
    """The same formats for all weights, and for all activations; without any these are not planned."""
    weights = dict.fromkeys((site.name for site in network.sites), WEIGHTS)
    planned = planned_activations(network) if activations else ()
    return {**weights, **{site.name: list(activations) for site in planned}}


def crossed(network: Network) -> LatencyTable:
    """A table in which no latency is a sum over two decisions."""
    sites = {
        site.name: {
            entry(weight, activation): {"ms": (index + 1) * parse_format(weight).bits ** 1.5 * bits / 1000}
            for weight in WEIGHTS
            for activation, bits in ((None, 32), (UnsignedFormat(4), 4), (UnsignedFormat(8), 11))
        }
        for index, site in enumerate(network.sites)
    }
    return LatencyTable({"source": "given", "base_ms": 0.5, "sites": sites})


def every_choice(problem: Problem) -> np.ndarray:
    return np.array(list(itertools.product(*(range(len(site.candidates)) for site in problem.sites))))


def originals(joint: MergedProblem) -> list[Plan]:
    return [joint.original(Plan(tuple(row))) for row in every_choice(joint.problem).tolist()]


def operations(problem: Problem, plan: Plan, reads: dict[str, list[tuple[str, int]]]) -> int:
    """By the definition, over what each layer was counted to read."""
    bits = {name: format_.bits for name, format_ in problem.formats(plan).items()}
    return sum(macs * bits[weight] * bits[read] for weight, layers in reads.items() for read, macs in layers)


@pytest.mark.parametrize("name", ["convnet", "tied", "branches"])
def test_bit_operations_of_every_plan_are_exact(networks, name):
    network, reads = networks[name]
    allowed = allowed_in(network)
    space = space_of(network, allowed)
    problem, coupling, joint = space.problem, space.coupling, space.joint
    plans = originals(joint)
    assert len(set(plans)) == 2 ** len(problem.sites)
    totals = joint.problem.totals(Quantity.BIT_OPERATIONS, every_choice(joint.problem))
    assert totals.tolist() == [operations(problem, plan, reads) for plan in plans]
    sizes = joint.problem.totals(Quantity.SIZE, every_choice(joint.problem))
    assert sizes.tolist() == [problem.total(Quantity.SIZE, plan) for plan in plans]
    sites = {site.name: site for site in network.sites}
    for plan in plans:  # what the delivered plan says of its layers
        formats = problem.formats(plan)
        said = sum(coupling.bit_operations(site, formats) for site in sites.values())
        assert said == operations(problem, plan, reads)


@pytest.mark.parametrize("activations", [ACTIVATIONS, ACTIVATIONS[1:], ["float32"], []])
def test_latencies_of_every_plan_are_exact(networks, activations):
    network, reads = networks["convnet"]
    table = crossed(network)
    allowed = allowed_in(network, activations)
    space = space_of(network, allowed, table=table, objective="latency")
    problem, coupling, joint = space.problem, space.coupling, space.joint
    totals = joint.problem.totals(Quantity.LATENCY, every_choice(joint.problem))
    for total, plan in zip(totals, originals(joint), strict=True):
        formats = problem.formats(plan)
        activation = {weight: formats.get(read) for weight, [(read, _)] in reads.items()}
        read = {weight: one if isinstance(one, UnsignedFormat) else None for weight, one in activation.items()}
        expected = 0.5 + sum(table.ms(weight, formats[weight].name, read[weight]) for weight in reads)
        assert total == pytest.approx(expected, abs=1e-5)
        said = [coupling.latency_ms(site, formats) for site in network.sites]
        assert total == problem.base(Quantity.LATENCY) + sum(said)
    assert not coupling.one_latency()


@pytest.mark.parametrize(
    ("slow", "activations", "same"),
    [
        (None, ACTIVATIONS, True),
        ("int8/channel", ACTIVATIONS, True),  # nothing that is planned reads floats
        ("int8/channel", [], False),
        ("int4/channel+uint8/tensor", ACTIVATIONS, False),
    ],
)
def test_whether_any_format_is_faster(networks, slow, activations, same):
    """One pair of formats that takes longer is enough."""
    network, _ = networks["convnet"]
    read = (None, UnsignedFormat(4), UnsignedFormat(8))
    times = {key: {"ms": 2.0 if key == slow else 1.0} for key in (entry(w, a) for w in WEIGHTS for a in read)}
    table = LatencyTable({"source": "given", "base_ms": 0.0, "sites": dict.fromkeys(CONVNET, times)})
    assert Coupling(network, allowed_in(network, activations), table).one_latency() == same


def test_tied_layers_keep_one_format_in_coupled_plans(networks):
    network, reads = networks["convnet"]
    allowed = allowed_in(network)
    space = space_of(network, allowed, [["conv1", "fc"]])
    problem, joint = space.problem, space.joint
    plans = originals(joint)
    assert len(set(plans)) == 2 ** (len(problem.sites) - 1)
    formats = [problem.formats(plan) for plan in plans]
    assert all(one["conv1"] == one["fc"] for one in formats)
    totals = joint.problem.totals(Quantity.BIT_OPERATIONS, every_choice(joint.problem))
    assert totals.tolist() == [operations(problem, plan, reads) for plan in plans]


@pytest.mark.parametrize("seed", range(5))
def test_the_best_plan_within_a_limit_is_found(networks, seed):
    """Least damage within exact bit operations, by brute force over the single decisions."""
    network, reads = networks["tied"]
    generator = np.random.default_rng(seed)
    allowed = allowed_in(network)
    space = space_of(network, allowed)
    costs = space.problem
    problem = replace(
        costs,
        sites=tuple(
            replace(
                site,
                candidates=tuple(replace(one, damage=float(generator.exponential())) for one in site.candidates),
            )
            for site in costs.sites
        ),
    )
    plans = [Plan(tuple(row)) for row in every_choice(problem).tolist()]
    counts = np.array([operations(problem, plan, reads) for plan in plans])
    damages = np.array([problem.total(Quantity.DAMAGE, plan) for plan in plans])
    limit = float(np.quantile(counts, 0.5))
    joint = replace(space, problem=problem).joint
    frontier = frontier_within(joint.problem, Quantity.BIT_OPERATIONS, Limits(max_bit_operations=limit), points=10**6)
    assert frontier.costs[-1] <= limit
    assert frontier.damages[-1] == pytest.approx(damages[counts <= limit].min())
    for cost, damage in zip(frontier.costs, frontier.damages, strict=True):
        assert damage == pytest.approx(damages[counts <= cost].min())


@pytest.mark.parametrize(
    ("wanted", "activations"),
    [
        ({"objective": "size"}, ACTIVATIONS),
        ({"objective": "size", "limits": {"max_size_bytes": 10**6}}, ACTIVATIONS),
        ({}, ACTIVATIONS[1:]),
    ],
)
def test_nothing_is_merged_where_sums_are_exact(networks, wanted, activations):
    network, reads = networks["convnet"]
    space = space_of(network, allowed_in(network, activations), **wanted)
    problem, joint = space.problem, space.joint
    assert [site.name for site in joint.problem.sites] == [site.name for site in problem.sites]
    if len(activations) == 1:
        for plan in originals(joint):
            assert problem.total(Quantity.BIT_OPERATIONS, plan) == operations(problem, plan, reads)


REQUEST = {
    "budget": {"metric": "top1", "max_drop": 0.05},
    "weights": {"bits": [4, 8]},
    "activations": {"bits": [4, 8]},
}


@pytest.fixture(scope="module")
def analysis() -> dict[str, bytes]:
    """Results that the jobs of this file share."""
    return {}


def counted(rows: dict[str, int]) -> int:
    return sum(macs * rows[weight] * rows[read] for weight, [(read, macs)] in CONVNET.items())


@pytest.mark.parametrize("search", ["frontier", "bisection"])
def test_a_job_for_bit_operations_reports_what_its_plans_cost(job, model, samples, analysis, search):
    wanted = {**REQUEST, "objective": "bit_operations", "search": {"method": search}}
    delivery = job(model, samples, wanted, analysis).run()
    plan, frontier = (json.loads(delivery.artifacts[kind]) for kind in ("plan", "frontier"))
    assert delivery.outcome == "met"
    bits = {row["name"]: row["bits"] for row in (*plan["layers"], *plan["activations"])}
    assert plan["bit_operations"] == counted(bits) == sum(layer["bit_operations"] for layer in plan["layers"])
    for shown in (*frontier["points"], *plan["search"]["evaluated"]):
        assert shown["cost"] == counted(shown["bits"])
    read = [one["bits"]["r1"] for one in frontier["points"]]
    assert {4, 8} == set(read)


def test_a_limit_on_bit_operations_counts_what_layers_read(job, model, samples, analysis):
    """With every layer at the widest that it may read, no plan would keep this limit."""
    least = counted(dict.fromkeys([*CONVNET, "image", "r1", "r2"], 4))
    limit = 2 * least - 1
    run = job(model, samples, {**REQUEST, "limits": {"max_bit_operations": limit}}, analysis)
    plan = json.loads(run.run().artifacts["plan"])
    assert plan["bit_operations"] <= limit
    run = job(model, samples, {**REQUEST, "limits": {"max_bit_operations": least - 1}}, dict(analysis))
    with pytest.raises(LimitUnreachable, match=f"the cheapest plan .* has {least:,}"):
        run.run()
    assert run.ran == []


def test_a_job_for_latency_predicts_what_the_table_says(job, model, samples, analysis, networks):
    sites = crossed(networks["convnet"][0]).document["sites"]
    table = {site: {key: one["ms"] for key, one in entries.items()} for site, entries in sites.items()}
    wanted = {**REQUEST, "objective": "latency", "latency_table": {**table, "base_ms": 0.5}}
    delivery = job(model, samples, wanted, analysis).run()
    plan, frontier = (json.loads(delivery.artifacts[kind]) for kind in ("plan", "frontier"))

    def told(bits: dict[str, int]) -> float:
        pairs = [
            (weight, f"int{bits[weight]}/channel+uint{bits[read]}/tensor") for weight, [(read, _)] in CONVNET.items()
        ]
        return 0.5 + sum(table[weight][key] for weight, key in pairs)

    bits = {row["name"]: row["bits"] for row in (*plan["layers"], *plan["activations"])}
    assert plan["latency"]["predicted_ms"] == pytest.approx(told(bits), abs=1e-5)
    for shown in (*frontier["points"], *plan["search"]["evaluated"]):
        assert shown["cost"] == pytest.approx(told(shown["bits"]), abs=1e-5)
    (predicted,) = {one["cost"] for one in frontier["points"] if one["chosen"]}
    assert predicted == plan["latency"]["predicted_ms"]


def test_more_combinations_than_can_be_planned_are_refused_at_once(job, samples, networks):
    """Four branches that read one activation, and seven widths of each weight."""
    network, _ = networks["branches"]
    bits = {"weights": {"bits": [2, 3, 4, 5, 6, 7, 8]}, "activations": {"bits": [4, 8]}, "budget": {"metric": "kl"}}
    data = {"x": np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)}
    run = job(network.proto.SerializeToString(), data, {**bits, "objective": "bit_operations"})
    with pytest.raises(
        NotApplicable, match=r"depend on its weight and on what it reads.* have 4,802 combinations.*w0 \(7"
    ):
        run.run()
    assert run.ran == ["admit", "normalise"]


def uncounted(network: Network, name: str) -> Network:
    """The network as where no run showed how often the layers of this site run."""
    sites = tuple(
        replace(site, layers=tuple(replace(layer, macs_known=site.name != name) for layer in site.layers))
        for site in network.sites
    )
    return replace(network, sites=sites)


@pytest.mark.parametrize(
    "request_", [{"objective": "bit_operations"}, {"objective": "size", "limits": {"max_bit_operations": 10**9}}]
)
def test_bit_operations_that_are_not_known_are_not_traded(networks, request_):
    network = uncounted(networks["convnet"][0], "conv2")
    with pytest.raises(ConstraintImpossible, match=r"the bit operations of conv2 are not known.*take another"):
        space_of(network, allowed_in(network, ()), **request_).check()
    space_of(network, allowed_in(network, ()), objective="size").check()


def test_a_row_says_that_its_bit_operations_are_the_least_or_none(networks):
    network = uncounted(networks["convnet"][0], "conv2")
    idle = replace(network.sites[-1], layers=(replace(network.sites[-1].layers[0], macs=0, inner=True),))
    network = replace(network, sites=(*network.sites[:-1], idle))
    space = space_of(network, allowed_in(network, ()), objective="size")
    names = [site.name for site in network.sites]
    candidates = Candidates(dict.fromkeys(names, ()), {}, dict.fromkeys(names, "gptq"), {})
    rows = layer_rows(PlanFacts(space, Plan((0,) * len(names)), None), candidates, candidates, {})
    assert {row["name"]: row["note"] for row in rows} == dict.fromkeys(names) | {"conv2": UNCOUNTED, "fc": UNUSED}
