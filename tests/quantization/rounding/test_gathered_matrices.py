"""Matrices that Gather picks from a table are rounded for the inputs that they multiply."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from network.taps import Taps
from quantization.export.audit import audit
from quantization.export.cost import file_bytes
from quantization.export.export import export, simulate
from quantization.plans.order import stages
from quantization.rounding.formats import round_to_formats
from quantization.rounding.layers import read_by, reduction_of
from quantization.rounding.reduction import MatrixReduction, NotReducible
from quantization.rounding.routing import routing_of
from quantization.rounding.statistics import InputStatistics, input_statistics
from tests.network.test_tables import EXPERTS, INPUTS, OUTPUTS, PRODUCTS, network
from tests.quantization.rounding.test_stacks import FORMATS

RunOnnx = Callable[..., list[NDArray[Any]]]
MULTIPLIED = [name for name, (_, _, reduced) in PRODUCTS.items() if reduced is not None]
SAMPLES = 20


def arrays() -> dict[str, NDArray[Any]]:
    """The last expert is reached by no sample."""
    rng = np.random.default_rng(4)
    x = rng.normal(size=(SAMPLES, INPUTS)).astype(np.float32)
    return {"x": x, "i": rng.integers(0, EXPERTS - 1, SAMPLES)}


@pytest.mark.parametrize("name", MULTIPLIED)
def test_second_moments_are_those_of_what_is_multiplied(name: str) -> None:
    nodes, table, reduced = PRODUCTS[name]
    of = network(nodes, table)
    (site,) = of.sites
    (layer,) = site.layers
    view = reduction_of(of, layer, site.shape)
    assert isinstance(view, MatrixReduction)
    assert reduced == view.reduced_axis - len(table)
    weight = of.weight("w")
    assert view.to_matrix(weight).shape == (1, EXPERTS * OUTPUTS, INPUTS)
    np.testing.assert_array_equal(view.from_matrix(view.to_matrix(weight), weight.shape), weight)
    statistics = input_statistics(of, site)
    assert isinstance(statistics, InputStatistics)
    given = arrays()
    Taps(of, read_by(of, layer), 1).run(given, lambda _, values: statistics.add(layer, np.asarray(values, np.float32)))
    np.testing.assert_allclose(statistics.hessian[0], given["x"].T @ given["x"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", MULTIPLIED)
def test_every_format_is_stored_and_read_back(run_onnx: RunOnnx, name: str) -> None:
    nodes, table, _ = PRODUCTS[name]
    of = network(nodes, table)
    (site,) = of.sites
    statistics = input_statistics(of, site)
    assert isinstance(statistics, InputStatistics)
    statistics.add(site.layers[0], arrays()["x"][..., None] if "left" in name else arrays()["x"])
    formats = [own for own in FORMATS if own.kind != "hadamard" and not getattr(own, "block", 0)]  # for 6 inputs
    rounded, method = round_to_formats(of.weight("w"), formats, site.channel_axis, statistics)
    assert method.startswith("gptq")
    for weight in rounded:
        file = export(of, {"w": weight}, {})
        assert len(file) == file_bytes(of, {"w": weight.format})
        assert [(own.name, own.format) for own in audit(file).weights if own.shape == table] == [("w", weight.format)]
        (given,), (expected,) = (run_onnx(own, arrays()) for own in (file, simulate(of, {"w": weight})))
        np.testing.assert_array_equal(given, expected)


def test_it_can_be_rounded_once_its_inputs_exist() -> None:
    """Although the product's own operand is made behind the Gather."""
    nodes, table, _ = PRODUCTS["MatMul"]
    of = network(nodes, table)
    assert of.proto.graph.node[0].op_type == "Gather"
    assert read_by(of, of.sites[0].layers[0]) == ("x",)
    (stage,) = stages(of, ["w"])
    assert [use.tensor for use in stage.uses] == ["x"]


def test_a_table_that_nothing_multiplies_has_no_second_moments() -> None:
    nodes, table, _ = PRODUCTS["nothing"]
    of = network(nodes, table)
    assert isinstance(reduction_of(of, of.sites[0].layers[0], table), NotReducible)
    assert read_by(of, of.sites[0].layers[0]) == ("i",)


def test_what_no_index_names_is_counted() -> None:
    nodes, table, _ = PRODUCTS["MatMul"]
    of = network(nodes, table)
    routing = routing_of(of, of.sites[0])
    assert routing is not None
    assert routing.operands == ("i",)
    assert routing.note() == f"{EXPERTS} of {EXPERTS} matrices were reached by no calibration sample"
    routing.add("i", np.array([[0], [-1]]))
    routing.add("i", np.array(1, dtype=np.int32))
    assert routing.note() == "1 of 4 matrices were reached by no calibration sample"
    routing.add("i", np.array([2]))
    assert routing.note() == ""
