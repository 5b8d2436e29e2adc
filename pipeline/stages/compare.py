"""Compare: a quantized file run as it is, against its float network as it was uploaded, on all samples.

Nobody here chose anything by what the file does on them, so that all are held out and looked at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from evaluation.certifying import Terms, certify
from evaluation.choice import Question
from evaluation.every_metric import every_metric
from evaluation.matched_outputs import MatchedBy, MatchedOutputs, match_outputs
from evaluation.metrics.claim import measure
from evaluation.metrics.measurement import Output
from evaluation.nulls import Blind
from network.errors import InterfaceDiffers, listing
from pipeline.certificate_config import CompareConfig
from pipeline.context import Context
from pipeline.inspections import finding_document
from pipeline.own_metric import own_metric, truth_of, with_graph
from pipeline.reference import runner_of
from pipeline.results import pack
from pipeline.stages.admit_pair import about_the_quantized_file
from pipeline.workspace import Inputs
from quantization.inspection.findings import Finding, defect, note, warning


def run(context: Context, config: CompareConfig) -> bytes:
    """The certificate, every metric that fits beside it, how outputs were matched, and what these show.

    Raises:
        FileNotInspected: ONNX Runtime does not run the quantized file on these samples.
        InterfaceDiffers: no output of the two files fits the other.
        MetricNotApplicable: a relative drop of something that is 0.
        MetricGraphInvalid: the metric graph fails on the outputs of the quantized file.
    """
    inputs, reference, chosen = (
        context.workspace.inputs(config.samples),
        context.workspace.reference(),
        context.workspace.chosen(),
    )
    context.progress(0.0)
    padded = [fact.name for fact in reference.facts if fact.padded]
    matched = match_outputs(reference.outputs, _outputs(context, inputs, reference.samples), padded)
    if matched.nothing_fits:
        raise InterfaceDiffers(
            "no output of the quantized file fits the float model: "
            f"{listing([f'{match.name!r}: {match.reason}' for match in matched.matches])}; are these the same network?"
        )
    context.progress(0.3)
    own = own_metric(context, inputs, list(reference.outputs))
    budget, claims = config.budget, with_graph(context.workspace.claims(), own)
    truth = truth_of(inputs.dataset, own).take(inputs.splits.search[: reference.samples])
    terms = Terms(budget.max_drop, budget.kind, budget.confidence, seed=config.samples.seed, synthetic=inputs.synthetic)
    measured = measure(claims, reference.outputs, matched.outputs, truth, budget.kind)
    unseen = [Blind(**blind) for blind in chosen["blind_to"]]
    certificate = certify(measured, terms, nulls=chosen["nulls"], blind_to=unseen)
    context.progress(0.4)
    question = Question(reference.facts, reference.outputs, truth, budget.kind, budget.max_drop)
    facts = [fact for fact in reference.facts if fact.name not in config.ignored]
    further = every_metric(question, matched.outputs, facts, terms, lambda share: context.progress(0.4 + 0.6 * share))
    document = {
        "certificate": asdict(certificate),
        "metrics": [{**asdict(result.claim), "sees": result.sees} for result in further],
        "outputs": [asdict(match) for match in matched.matches],
        "findings": [finding_document(finding) for finding in _findings(matched, config.ignored)],
    }
    return pack(document)


def _outputs(context: Context, inputs: Inputs, samples: int) -> dict[str, Output]:
    """Those of the quantized file, on the samples of the reference."""
    with about_the_quantized_file():
        runner = runner_of(context, inputs, context.bytes_of("quantized"), context.workspace.quantized_batching())
        outputs = runner.outputs(inputs.dataset.take(inputs.splits.search[:samples]).inputs, inputs.batch)
    context.check()
    return outputs


def _findings(matched: MatchedOutputs, ignored: tuple[str, ...]) -> Iterator[Finding]:
    """What the outputs on the samples show; outputs that the request ignores are not complained of."""
    for match in matched.matches:
        if match.name in ignored:
            continue
        if match.by is MatchedBy.NOTHING:
            yield defect(
                "output_missing", match.name, f"{match.reason}; it counts as wrong everywhere: export it as it was"
            )
        elif match.by is MatchedBy.POSITION:
            yield warning(
                "output_renamed",
                match.name,
                f"the quantized file calls it {match.quantized_name!r}, by its place: keep the name",
            )
        if match.looks_like is not None:
            yield defect(
                "outputs_exchanged",
                match.name,
                f"on these samples it is like the float model's {match.looks_like!r} and not like its own: give each "
                "output its own name",
            )
        if match.not_finite:
            yield defect(
                "output_not_finite",
                match.name,
                f"it is NaN or infinite for {match.not_finite:,} samples where the float model gives a number; these "
                "count as wrong: look at scales and ranges",
            )
    for name in matched.unused:
        yield note("output_added", name, "the float model has no such output; it is not looked at")
