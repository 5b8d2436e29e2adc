"""What is no weight of a layer, in the file of a job: float16 unless the request says otherwise."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto

from network.normalise import load
from quantization.export.cost import file_bytes
from quantization.export.leftovers import leftovers
from quantization.formats import IntegerFormat

PLAN = {"version": 1, "layers": [{"name": name, "format": "int4/channel"} for name in ("conv1", "conv2", "fc")]}


@pytest.mark.parametrize("leftover", ["float16", "float32"])
def test_biases_are_stored_as_the_request_says(job, model, samples, leftover):
    run = job(model, samples, {"plan": PLAN, "weights": {"rounding": "nearest", "leftovers": leftover}})
    found = run.run()
    network = load(run.context.read("normalise"))
    assert leftovers(network) == {"conv2.bias"}  # of 24 values; the others, of 12 and 10, would not be smaller
    file = onnx.ModelProto.FromString(found.artifacts["model"])
    halves = [tensor for tensor in file.graph.initializer if tensor.data_type == TensorProto.FLOAT16]
    assert [list(tensor.dims) for tensor in halves] == ([[24]] if leftover == "float16" else [])
    assert found.summary["size_bytes"] == len(found.artifacts["model"])
    formats = {site.weight: IntegerFormat(4) for site in network.sites}
    metadata = {entry.key: entry.value for entry in file.metadata_props}
    expected = file_bytes(network, formats, metadata, halves=leftovers(network) if leftover == "float16" else ())
    assert len(found.artifacts["model"]) == expected


def test_another_way_to_store_them_repeats_no_rounding(job, model, samples):
    results = {}
    request = {"plan": PLAN, "weights": {"rounding": "nearest", "leftovers": "float16"}}
    job(model, samples, request, results).run()
    again = job(model, samples, request | {"weights": {"rounding": "nearest", "leftovers": "float32"}}, results)
    again.run()
    assert again.ran == ["resolve", "certify"]
