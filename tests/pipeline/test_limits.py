"""Limits on the size against files that are really written: the byte that decides, and which file is the smallest."""

from __future__ import annotations

import itertools
import json
import re

import numpy as np
import pytest

from network.graph import Network
from network.normalise import load
from pipeline.limits import smallest_plans
from pipeline.search_space import SearchSpace
from planner.errors import LimitUnreachable
from planner.problem import Plan

WIDTHS = [2, 3, 4, 8]


def refused(job) -> int:
    """The bytes that the error names; the job was refused before anything slow."""
    with pytest.raises(LimitUnreachable, match=r"limits\.max_size_bytes is") as refusal:
        job.run()
    assert job.ran == ["admit", "normalise"]
    (least,) = re.findall(r"allow has ([\d,]+) bytes; raise the limit to that", str(refusal.value))
    return int(least.replace(",", ""))


@pytest.mark.parametrize("layers", [{}, {"fc": {"bits": [3, 8]}}, {"conv2": {"keep": True}, "conv1": {"bits": [4]}}])
def test_no_plan_has_a_smaller_file(job, model, samples, layers):
    """Every plan of the network against the plans that are looked at."""
    run = job(model, samples, {"weights": {"bits": WIDTHS}, "layers": layers, "limits": {"max_size_bytes": 1}})
    least = refused(run)
    network: Network = load(run.results[run.keys["normalise"]])
    allowed = {
        site.name: ["float32"]
        if layers.get(site.name, {}).get("keep")
        else [f"int{bits}/channel" for bits in layers.get(site.name, {}).get("bits", WIDTHS)]
        for site in network.sites
    }
    space = SearchSpace.build(network, run.config.resolve.space, allowed, [])
    problem = space.problem
    every = [Plan(choices) for choices in itertools.product(*(range(len(site.candidates)) for site in problem.sites))]
    sizes = space.file_sizes(every)
    assert least == sizes.min()
    assert set(smallest_plans(problem)) <= set(every)
    # what one width for all costs is below the sum of the smallest, where that needs a function more
    assert sizes.min() <= space.file_sizes([Plan(tuple(np.zeros(len(allowed), int)))])[0]


def test_the_byte_that_decides(job, model, samples):
    """A limit at what the error names is kept by the file that is delivered; one byte less is refused at once."""
    request = {"weights": {"bits": [3, 8]}, "budget": {"metric": "kl", "max_drop": 1.0}}
    results: dict[str, bytes] = {}
    least = refused(job(model, samples, {**request, "limits": {"max_size_bytes": 500}}, results))
    assert refused(job(model, samples, {**request, "limits": {"max_size_bytes": least - 1}})) == least
    delivery = job(model, samples, {**request, "limits": {"max_size_bytes": least}}, results).run()
    assert len(delivery.artifacts["model"]) == json.loads(delivery.artifacts["plan"])["size_bytes"] == least


def test_where_the_other_limits_bind_they_are_named(job, model, samples):
    run = job(model, samples, {"limits": {"max_size_bytes": 10**6, "max_bit_operations": 10}})
    with pytest.raises(LimitUnreachable, match=r"limits\.max_bit_operations is 10, but the cheapest plan"):
        run.run()
