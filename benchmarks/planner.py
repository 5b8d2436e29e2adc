"""The planner against HiGHS: whole frontiers, and plans under interactions, in solves of the same size in the same run.

    python -m benchmarks.planner [DATA]

With DATA (as for `benchmarks.job`) also the plans of the frontier against those of one ranking of layers
(`benchmarks.ranking`), in bytes at equal measured accuracy of a real network, and a job through a real service whose
analysis is then asked for a second budget (`benchmarks.replanning`).

One *solve* is one additive problem with one limit on the size, solved by `scipy.optimize.milp` with its default gap,
for problems and limits like those of the line. Sizes are the bytes that the exporter writes for layers of a bottleneck
residual network; damages are those of rounding Gaussian weights, with traces spread over decades. The last line is one
JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

# before numpy is there: the solver and the planner both get one thread
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp

from benchmarks.planning_problems import BITS, INTERACTION_SITES, Case, additive_problem, interaction_case, size_limit
from benchmarks.ranking import one_at_a_time, ranked_plans, smallest_within
from benchmarks.real_network import THREADS, RealNetwork
from benchmarks.replanning import replanning
from benchmarks.rules.greedy import greedy_frontier
from benchmarks.rules.monotone import monotone_frontier
from benchmarks.rules.single_limit import solve_interactions
from planner import dynamic
from planner.descent import Descent
from planner.frontier import additive_frontier
from planner.interactions import interaction_frontier
from planner.problem import Candidate, Plan, PlanSite, Problem, Quantity
from planner.results import Frontier
from quantization.export.cost import weight_bytes
from sensitivity.cross_layer import cross_layer
from sensitivity.estimate import WeightChange
from sensitivity.loss import Kind, Loss

SEEDS = range(3)
# where the limits of the single solves lie between the cheapest and the dearest plan
FRACTIONS = (0.1, 0.3, 0.5, 0.7, 0.9)
# a frontier with capped states, as the sites grow
GROWING_SITES = (125, 250, 500, 1000)
STATES_OF_A_SITE = 32
INTERACTION_CASES = 20
# the oracle: a longer search from another seed, then exchanges from plans near its own
ORACLE_SEED = 1
ORACLE_STEPS = 6000
ORACLE_KICKS = 150
# budgets of top-1 accuracy, in points
BUDGETS = (0.3, 0.5, 1.0, 2.0, 3.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", help="as for benchmarks.job; without it no network is quantized")
    data: Path | None = parser.parse_args().data
    table = Table("problem", "solve, s", "planner, s", "in solves", "outcome")
    budgets = Table("top-1 drop, points", "ranking, bytes", "frontier, bytes", "ratio")
    jobs = Table("job", "float passes", "seconds", "bytes", "outcome")
    figures: dict[str, Any] = {}
    os.environ.pop("OPENBLAS_NUM_THREADS")  # read when numpy was loaded; the service is to run as anybody's would
    with quiet():
        for section in (frontiers, growth, simpler_rules, interactions):
            figures |= section(table)
        if data is not None:
            # every section on the real network takes (data, table) and returns its figures
            for on_data, own in ((against_ranking, budgets), (replanned, jobs)):
                figures |= on_data(data, own)
    for shown in (table, *((budgets, jobs) if data is not None else ())):
        Console().print(shown)
    print(json.dumps(figures))


def frontiers(table: Table) -> dict[str, Any]:
    """Whole frontiers: exact for 100 sites, within a tolerance for 1,000."""
    exact, exact_frontiers = frontier_case(table, sites=100, tolerance=0.0, repeats=3)
    rough, rough_frontiers = frontier_case(table, sites=1000, tolerance=1e-3, repeats=1)
    if any(frontier.relative_bound for frontier in exact_frontiers):
        raise RuntimeError("the frontier of 100 sites was not exact")
    return {
        "frontier_100_in_solves": exact,
        "frontier_1000_in_solves": rough,
        "frontier_1000_bound": max(frontier.relative_bound for frontier in rough_frontiers),
    }


def frontier_case(table: Table, sites: int, tolerance: float, repeats: int) -> tuple[float, list[Frontier]]:
    """The time of a whole frontier in single solves, over all seeds, and the frontiers."""
    solves, times, found = [], [], []
    for seed in SEEDS:
        problem = additive_problem(seed, sites)
        single = statistics.mean(solve_seconds(problem, fraction) for fraction in FRACTIONS)
        runs = [seconds(partial(additive_frontier, problem, tolerance=tolerance)) for _ in range(repeats)]
        frontier, taken = runs[0][0], statistics.median(run[1] for run in runs)
        solves.append(single)
        times.append(taken)
        found.append(frontier)
        table.add_row(
            f"frontier, {sites} sites x {len(BITS)} formats, seed {seed}",
            f"{single:.3f}",
            f"{taken:.3f}",
            f"{taken / single:.2f}",
            f"{len(frontier):,} plans, {frontier.status}, relative bound {frontier.relative_bound:.1e}",
        )
    return round(sum(times) / sum(solves), 2), found


def growth(table: Table) -> dict[str, Any]:
    """Time and memory of a frontier for each state that it keeps, as sites and states grow."""
    times, peaks = [], []
    for sites in GROWING_SITES:
        problem = additive_problem(0, sites)
        run = partial(additive_frontier, problem, max_states=STATES_OF_A_SITE * sites)
        with counted_states() as kept:
            frontier, taken = seconds(run)
            states = sum(kept)
        taken = min(taken, *(seconds(run)[1] for _ in range(2)))
        tracemalloc.start()
        run()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        times.append(taken / states)
        peaks.append(peak / states)
        table.add_row(
            f"{sites} sites, at most {STATES_OF_A_SITE * sites:,} states at once",
            "",
            f"{taken:.3f}",
            "",
            f"{states:,} states kept over all sites: {1e9 * times[-1]:.0f} ns and {peaks[-1]:.1f} bytes each; relative "
            f"bound {frontier.relative_bound:.1e}",
        )
    return {
        "time_growth_per_kept_state": round(times[-1] / times[0], 2),
        "memory_growth_per_kept_state": round(peaks[-1] / peaks[0], 2),
    }


@contextmanager
def counted_states() -> Iterator[list[int]]:
    """How many states every pass kept over all its sites, while the block runs."""
    kept: list[int] = []
    traced = dynamic._traced  # it gets the states of every site; nothing public says how many there were

    def counted(history: Any, order: Any) -> Any:
        kept.append(sum(len(states.costs) for states in history))
        return traced(history, order)

    dynamic._traced = counted
    try:
        yield kept
    finally:
        dynamic._traced = traced


def simpler_rules(table: Table) -> dict[str, Any]:
    """What HAWQ-V2's monotone rule and steepest steps cost in damage, at equal size, against the exact frontier."""
    worst = {"monotone": 0.0, "greedy": 0.0}
    for seed in SEEDS:
        problem = additive_problem(seed, 50)
        # the trace that the damages were made with, but for the spread between formats
        traces = problem.values(Quantity.DAMAGE).reshape(len(problem.sites), -1)[:, 0].tolist()
        exact = additive_frontier(problem)
        rules = {
            "monotone": partial(monotone_frontier, problem, traces),
            "greedy": partial(greedy_frontier, problem),
        }
        for name, rule in rules.items():
            found, taken = seconds(rule)
            limits = [size_limit(problem, fraction) for fraction in FRACTIONS]
            excess = [
                found.damages[found.least_damage(limit)] / exact.damages[exact.least_damage(limit)] - 1
                for limit in limits
            ]
            worst[name] = max(worst[name], *excess)
            table.add_row(
                f"{name}, 50 sites x {len(BITS)} formats, seed {seed}",
                "",
                f"{taken:.3f}",
                "",
                f"damage above the exact frontier: {min(excess):.1%} to {max(excess):.1%}",
            )
    return {f"{name}_worst_excess": round(float(value), 4) for name, value in worst.items()}


def interactions(table: Table) -> dict[str, Any]:
    """Plans under interactions against the best that anything found."""
    gaps, solves, times, strengths = [], [], [], []
    for seed in range(INTERACTION_CASES):
        case = interaction_case(seed)
        solves.append(additive_solve(case.problem, case.limit)[1])
        plan, taken = seconds(partial(solve_interactions, case.problem, case.limits))
        times.append(taken)
        damage = case.problem.total(Quantity.DAMAGE, plan)
        best = min(damage, oracle(case))
        gaps.append(damage / best - 1)
        strengths.append(case.problem.total(Quantity.DAMAGE, additive_solve(case.problem, case.limit)[0]) / best)
    table.add_row(
        f"interactions, {INTERACTION_SITES} sites x {len(BITS)} formats, {INTERACTION_CASES} cases",
        f"{statistics.mean(solves):.3f}",
        f"{statistics.mean(times):.3f}",
        f"{statistics.mean(times) / statistics.mean(solves):.2f}",
        f"above the best known: {statistics.mean(gaps):.2%} in the mean, {max(gaps):.2%} at worst; "
        f"the additive optimum: {min(strengths) - 1:.0%} to {max(strengths) - 1:.0%}",
    )
    return {
        "interactions_worst_gap": round(max(gaps), 5),
        "interactions_time_in_solves": round(statistics.mean(times) / statistics.mean(solves), 2),
    }


def solve_seconds(problem: Problem, fraction: float) -> float:
    return additive_solve(problem, size_limit(problem, fraction))[1]


def additive_solve(problem: Problem, limit: float) -> tuple[Plan, float]:
    """The least sum of damages within a size, as anybody would ask HiGHS for it, and the seconds that it took."""
    sites, count = len(problem.sites), len(problem.site_of)
    one_each = sparse.csr_array((np.ones(count), (problem.site_of, np.arange(count))))
    size = sparse.csr_array(problem.values(Quantity.SIZE)[None])
    constraints = [LinearConstraint(one_each, 1, 1), LinearConstraint(size, -np.inf, limit)]
    damages = problem.values(Quantity.DAMAGE)
    answer, taken = seconds(
        lambda: milp(damages, constraints=constraints, integrality=np.ones(count), bounds=Bounds(0, 1))
    )
    return Plan(tuple(answer.x.reshape(sites, -1).argmax(axis=1).tolist())), taken


def oracle(case: Case) -> float:
    """The best damage that anything finds: a longer search from another seed, then exchanges of pairs around its plan.

    No exact solver ends on problems of this size; on small ones the tests compare with brute force.
    """
    problem, generator = case.problem, np.random.default_rng(ORACLE_SEED)
    searched = solve_interactions(problem, case.limits, seed=ORACLE_SEED, steps=ORACLE_STEPS)
    if searched is None:
        raise RuntimeError(f"no plan of {case.limit:,.0f} bytes was found, and there are some")
    descent = Descent.of(problem, [Quantity.SIZE])
    upper = np.array([case.limit])
    best = np.array(searched.choices) + problem.offsets[:-1]
    least = problem.total(Quantity.DAMAGE, searched)
    for _ in range(ORACLE_KICKS):
        kicked = descent.kicked(best, int(generator.integers(2, 7)), generator)
        if (descent.slack(kicked, upper) >= 0).all():
            found, damage = descent.improved(kicked, upper)
            if damage < least:
                best, least = found, damage
    return least


def against_ranking(data: Path, table: Table) -> dict[str, Any]:
    """Bytes of the smallest plan within each budget: of one ranking of layers, and of the frontier.

    Both choose among the same rounded weights, score candidates on the same images, measure plans on the same others,
    and search their list in the same way.
    """
    real = RealNetwork.read(data)
    problem = real_problem(real)
    ranking = ranked_plans(problem, one_at_a_time(real))
    frontier = interaction_frontier(problem, Quantity.SIZE, points=256).plans()
    smaller = 0
    for budget in BUDGETS:
        found = [smallest_within(plans, real.drop, budget) for plans in (ranking, frontier[::-1])]
        sizes = [math.inf if plan is None else real.file_bytes(plan) for plan in found]
        smaller += sizes[1] < sizes[0]
        table.add_row(f"{budget}", *(f"{size:,}" for size in sizes), f"{sizes[1] / sizes[0]:.3f}")
    return {"budgets_smaller_than_ranking": smaller}


def replanned(data: Path, table: Table) -> dict[str, Any]:
    """What the search of a whole job reads, and what a second budget takes on the analysis that the first one left."""
    found = replanning(data)
    one = found.float_pass_seconds
    searched = f"{found.full_evaluations:.2f} full evaluations in the search"
    rows = (
        ("1 point", found.first_seconds, found.first_bytes, searched),
        ("2 points, replanned", found.second_seconds, found.second_bytes, f"one float pass: {one:.2f} s"),
    )
    for name, taken, size, outcome in rows:
        table.add_row(name, f"{taken / one:.1f}", f"{taken:.1f}", f"{size:,}", outcome)
    return {
        "full_evaluations": round(found.full_evaluations, 2),
        "replan_float_passes": round(found.second_seconds / one, 1),
    }


def real_problem(real: RealNetwork) -> Problem:
    """Sizes as the exporter writes them, and the cross-layer matrix."""
    changes = [
        WeightChange(site.name, weight.format.name, site.weight, weight.dequantize)
        for site in real.network.sites
        for weight in real.rounded[site.name]
    ]
    generator, loss = np.random.default_rng(0), Loss.of(Kind.KL, real.network.outputs[0].name)
    measured = cross_layer(real.network, changes, {"input": real.scoring}, loss, threads=THREADS, generator=generator)
    damages = iter(measured.damage.tolist())
    sites = tuple(
        PlanSite(
            site.name,
            tuple(
                Candidate(
                    weight.format,
                    weight_bytes(weight.format, site.shape, site.channel_axis, site.weight),
                    0,
                    next(damages),
                )
                for weight in real.rounded[site.name]
            ),
        )
        for site in real.network.sites
    )
    return Problem(sites, interactions=measured.matrix)


def seconds(work: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    result = work()
    return result, time.perf_counter() - started


@contextmanager
def quiet() -> Iterator[None]:
    """HiGHS prints to the process's own standard output, also where nobody asked it to."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


if __name__ == "__main__":
    main()
