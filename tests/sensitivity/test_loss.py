"""Every kind of term against its definition, its dense Hessian in float64, and outputs that are no numbers."""

from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pytest
import torch
from scipy.special import expit, rel_entr, softmax

from network.errors import ModelInvalid, ShapesNotFixed
from sensitivity.loss import Kind, Loss, Term
from tests.oracles.interactions.displacement import differentiable_loss

SAMPLES = 4
PROBABILITIES = (Kind.KL_PROBABILITIES, Kind.BERNOULLI_PROBABILITIES)

# a shape behind the samples, the axis of channels, and which of them
LAYOUTS = {
    "row": ((5,), -1, None),
    "part of a row": ((5,), 1, (1, 4)),
    "positions first": ((3, 4), -1, None),
    "channels first": ((4, 2, 3), 1, None),
    "part of the middle": ((2, 5, 3), -2, (2, 5)),
}


def term_of(kind: Kind, layout: str, **more) -> tuple[Term, tuple[int, ...]]:
    shape, axis, channels = LAYOUTS[layout]
    return Term("y", kind, axis=axis, channels=channels, **more), (SAMPLES, *shape)


def all_terms() -> list:
    cases = [pytest.param(*term_of(kind, layout), id=f"{kind}-{layout}") for kind in Kind for layout in LAYOUTS]
    for layout in LAYOUTS:
        term, shape = term_of(Kind.SQUARED_ERROR, layout)
        scales = tuple(0.5 + i for i in range(term.block_shape(shape)[-1]))
        scaled, _ = term_of(Kind.SQUARED_ERROR, layout, scales=scales, weight=3.0)
        cases.append(pytest.param(scaled, shape, id=f"scaled-{layout}"))
    cases.append(pytest.param(term_of(Kind.BERNOULLI, "row", weight=0.25)[0], (SAMPLES, 5), id="weighted"))
    return cases


def channels_last(term: Term, values: np.ndarray) -> np.ndarray:
    return np.moveaxis(values, term.axis, -1)[..., slice(*(term.channels or (None,)))]


def outputs_of(term: Term, shape: tuple[int, ...], rng: np.random.Generator, count: int = 2) -> list[np.ndarray]:
    """Logits, or probabilities in the channels of the term."""
    drawn = []
    for _ in range(count):
        z = rng.normal(size=shape)
        if term.kind in PROBABILITIES:
            part = np.moveaxis(z, term.axis, -1)[..., slice(*(term.channels or (None,)))]
            part[...] = softmax(part, -1) if term.kind is Kind.KL_PROBABILITIES else expit(part)
        drawn.append(z)
    return drawn


@pytest.mark.parametrize(("term", "shape"), all_terms())
def test_a_term_is_what_its_definition_says(term, shape, rng):
    z, reference = outputs_of(term, shape, rng)
    a, b = channels_last(term, z), channels_last(term, reference)
    axes = tuple(range(1, a.ndim))
    if term.kind in (Kind.KL, Kind.KL_PROBABILITIES):
        p, q = (b, a) if term.kind in PROBABILITIES else (softmax(b, -1), softmax(a, -1))
        expected = rel_entr(p, q).sum(-1).reshape(SAMPLES, -1).mean(1)
    elif term.kind is Kind.SQUARED_ERROR:
        expected = 0.5 * np.square(a - b).sum(axes)
        if term.scales:
            expected = 0.5 * np.square((a - b) / term.scales).mean(axes)
    else:
        p, q = (b, a) if term.kind in PROBABILITIES else (expit(b), expit(a))
        expected = (rel_entr(p, q) + rel_entr(1 - p, 1 - q)).mean(axes)
    np.testing.assert_allclose(term.sample_loss(z, reference), term.weight * expected, rtol=1e-12)


@pytest.mark.parametrize(("term", "shape"), all_terms())
def test_the_differentiable_loss_is_the_loss(term, shape, rng):
    z, reference = outputs_of(term, shape, rng)
    loss = Loss((term,))
    found = differentiable_loss(loss, {"y": torch.from_numpy(z)}, {"y": torch.from_numpy(reference)})
    np.testing.assert_allclose(found.numpy(), loss.sample_loss({"y": z}, {"y": reference}), rtol=1e-11)


def dense(loss: Loss, references: dict[str, np.ndarray]) -> np.ndarray:
    """The Hessian of the loss of one sample in all outputs, one after the other by name."""
    shapes = {name: value.shape for name, value in references.items()}
    fixed = {name: torch.from_numpy(value) for name, value in references.items()}

    def total(flat: torch.Tensor) -> torch.Tensor:
        parts = torch.split(flat, [math.prod(shape) for shape in shapes.values()])
        moved = {name: part.reshape(shapes[name]) for name, part in zip(shapes, parts, strict=True)}
        return differentiable_loss(loss, moved, fixed).sum()

    return torch.autograd.functional.hessian(total, torch.cat([x.flatten() for x in fixed.values()])).numpy()


def root_of(loss: Loss, references: dict[str, np.ndarray]) -> np.ndarray:
    """B of one sample `[root_length, outputs]`, row by row from its transpose."""
    fixed = {name: torch.from_numpy(value) for name, value in references.items()}
    rows = []
    for u in torch.eye(loss.root_length({name: x.shape for name, x in fixed.items()}), dtype=torch.float64):
        weighted = loss.transposed_root_times(u[None], fixed)
        rows.append(torch.cat([weighted.get(name, torch.zeros_like(x)).flatten() for name, x in fixed.items()]))
    return torch.stack(rows).numpy()


def without_scaling(term: Term, hessian: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """For probabilities of classes: in directions that keep their sum, the only ones that a softmax can move in."""
    if term.kind is not Kind.KL_PROBABILITIES:
        return hessian
    tangent = np.zeros_like(hessian)
    indices = channels_last(term, np.arange(reference.size).reshape(reference.shape))
    for classes in indices.reshape(-1, indices.shape[-1]):
        tangent[np.ix_(classes, classes)] = np.eye(len(classes)) - 1 / len(classes)
    return tangent @ hessian @ tangent


@pytest.mark.parametrize(("term", "shape"), all_terms())
def test_the_root_squared_is_the_hessian(term, shape, rng):
    loss = Loss((term,))
    (reference,) = outputs_of(term, (1, *shape[1:]), rng, count=1)
    found, expected = root_of(loss, {"y": reference}), dense(loss, {"y": reference})
    found, expected = (without_scaling(term, m, reference) for m in (found.T @ found, expected))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    assert np.abs(expected).max() > 1e-3


@pytest.mark.parametrize(("term", "shape"), all_terms())
def test_a_small_change_loses_half_the_square_of_its_root(term, shape, rng):
    """And that root is what the transpose says."""
    loss = Loss((term,))
    _, reference = outputs_of(term, shape, rng)
    step = 1e-5 * rng.normal(size=shape)
    if term.kind is Kind.KL_PROBABILITIES:  # along what a softmax can do
        step *= reference
        inside = np.zeros(shape, dtype=bool)
        channels_last(term, inside)[...] = True
        mean = np.moveaxis(step, term.axis, -1)
        part = mean[..., slice(*(term.channels or (None,)))]
        part -= channels_last(term, reference) * part.sum(-1, keepdims=True)
    outputs = {"y": reference + step}
    root = loss.root_times(outputs, {"y": reference})
    assert root.shape == (SAMPLES, loss.root_length({"y": shape}))
    lost = loss.sample_loss(outputs, {"y": reference})
    np.testing.assert_allclose(0.5 * np.square(root).sum(1), lost, rtol=1e-3)
    u = torch.from_numpy(rng.normal(size=root.shape))
    back = loss.transposed_root_times(u, {"y": torch.from_numpy(reference)})["y"].numpy()
    along = (back * step).reshape(SAMPLES, -1).sum(1)
    np.testing.assert_allclose((u.numpy() * root).sum(1), along, rtol=1e-3, atol=1e-3 * np.abs(along).max())


SEVERAL = Loss(
    (
        Term("classes", Kind.KL, weight=2.0, axis=1),
        Term("found", Kind.SQUARED_ERROR, weight=0.3, axis=1, channels=(0, 2), scales=(40.0, 2.0)),
        Term("found", Kind.BERNOULLI, axis=1, channels=(1, 3)),  # one channel is in two terms
        Term("state", Kind.SQUARED_ERROR),
    )
)


def test_several_terms_add_up(rng):
    shapes = {"classes": (1, 4, 2), "found": (1, 3, 2), "unread": (1, 2), "state": (1,)}
    references, outputs = ({name: rng.normal(size=shape) for name, shape in shapes.items()} for _ in range(2))
    root = root_of(SEVERAL, references)
    np.testing.assert_allclose(root.T @ root, dense(SEVERAL, references), rtol=1e-9, atol=1e-12)
    assert SEVERAL.outputs == ("classes", "found", "state")
    alone = [Loss((term,)) for term in SEVERAL.terms]
    for of in ("sample_loss", "root_times"):
        parts = [getattr(loss, of)(outputs, references) for loss in alone]
        whole = np.sum(parts, axis=0) if of == "sample_loss" else np.concatenate(parts, axis=1)
        np.testing.assert_allclose(getattr(SEVERAL, of)(outputs, references), whole, rtol=1e-15)
    changes = np.concatenate([(outputs[name] - references[name]).ravel() for name in shapes])
    np.testing.assert_allclose(SEVERAL.root_times(outputs, references)[0], root @ changes, rtol=1e-9)


@pytest.mark.parametrize("kind", Kind)
def test_what_a_network_that_knows_nothing_loses_is_about_one(kind, rng):
    """Mean outputs and outputs of other samples, of outputs in any unit: comparable between kinds."""
    samples, width = 4000, 6
    reference = (
        3 * rng.normal(size=(samples, 5, width)) * (1 if kind is not Kind.SQUARED_ERROR else 10.0 ** np.arange(6))
    )
    if kind in PROBABILITIES:
        reference = softmax(reference, -1) if kind is Kind.KL_PROBABILITIES else expit(reference)
    scales = tuple(reference.std((0, 1))) if kind is Kind.SQUARED_ERROR else ()
    term = Term("y", kind, scales=scales)
    if kind is Kind.SQUARED_ERROR:
        mean = np.broadcast_to(reference.mean((0, 1)), reference.shape)
        assert term.sample_loss(mean, reference).mean() == pytest.approx(0.5, rel=1e-6)
        assert term.sample_loss(reference[::-1], reference).mean() == pytest.approx(1.0, rel=0.1)
        return
    probabilities = reference
    if kind not in PROBABILITIES:
        probabilities = softmax(reference, -1) if kind is Kind.KL else expit(reference)
    mean = np.broadcast_to(probabilities.mean((0, 1)), reference.shape)
    known = Kind.KL_PROBABILITIES if kind in (Kind.KL, Kind.KL_PROBABILITIES) else Kind.BERNOULLI_PROBABILITIES
    lost = Term("y", known).sample_loss(mean, probabilities).mean()
    assert 0.2 < lost < (math.log(width) if known is Kind.KL_PROBABILITIES else math.log(2))


@pytest.mark.parametrize("kind", Kind)
def test_what_is_not_a_number_loses_without_bound_and_without_warnings(kind, rng):
    reference = rng.normal(size=(5, 3))
    if kind in PROBABILITIES:
        reference = softmax(reference, -1)
    broken = reference.copy()
    broken[1, 0], broken[2, 1], broken[3, :] = np.nan, np.inf, -np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lost = Term("y", kind).sample_loss(broken, reference)
        Term("y", kind).root_times(broken, reference)
    assert not np.isnan(lost).any()
    assert lost[1] == math.inf
    assert lost[[0, 4]].tolist() == [0.0, 0.0]
    assert (lost[[2, 3]] > 1).sum() >= 1


@pytest.mark.parametrize("kind", Kind)
def test_where_the_float_network_says_nothing_nothing_is_lost(kind, rng):
    """Rows that the network masks: NaN, or the same infinity in both."""
    reference = rng.normal(size=(4, 2, 3))
    if kind in PROBABILITIES:
        reference = softmax(reference, -1)
    outputs = reference + 0.01
    expected = Term("y", kind).sample_loss(outputs, reference)
    reference[1, 0] = outputs[1, 0] = np.nan
    reference[2, 0] = np.nan  # the quantized network has numbers there
    if kind in (Kind.SQUARED_ERROR, Kind.BERNOULLI):
        reference[3, 0] = outputs[3, 0] = -np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lost = Term("y", kind).sample_loss(outputs, reference)
        root = Term("y", kind).root_times(outputs, reference)
    assert np.isfinite(root).all()
    np.testing.assert_allclose(lost[0], expected[0])
    assert np.all(lost[1:3] < expected[1:3] + 1e-12)
    assert np.isfinite(lost).all()


@pytest.mark.parametrize("kind", Kind)
def test_saturated_float32_probabilities_keep_gradients_finite(kind):
    """A sigmoid or softmax of 30 is exactly 1 in float32."""
    reference = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    loss = Loss.of(kind, "y")
    back = loss.transposed_root_times(torch.ones(2, loss.root_length({"y": (2, 2)})), {"y": reference})["y"]
    assert torch.isfinite(back).all()


@pytest.mark.parametrize("kind", Kind)
def test_one_number_for_each_sample_and_no_number_at_all(kind, rng):
    term = Term("y", kind)
    assert term.sample_loss(rng.uniform(size=5), rng.uniform(size=5)).shape == (5,)
    u = torch.ones(5, 1, dtype=torch.float64)
    assert term.transposed_root_times(u, torch.from_numpy(rng.uniform(size=5))).shape == (5,)
    for shape in ((5, 0), (5, 0, 3)):
        if shape[-1] or kind not in (Kind.KL, Kind.KL_PROBABILITIES):
            assert term.sample_loss(np.zeros(shape), np.zeros(shape)).tolist() == [0.0] * 5
            assert term.root_times(np.zeros(shape), np.zeros(shape)).shape == (5, 0)


def test_outputs_whose_length_depends_on_the_data_are_refused():
    loss = Loss.of(Kind.SQUARED_ERROR, "boxes")
    for of in (loss.sample_loss, loss.root_times):
        with pytest.raises(ShapesNotFixed, match=r"'boxes' has the shape \[2, 3\].*\[2, 4\].*NonMaxSuppression"):
            of({"boxes": np.zeros((2, 4))}, {"boxes": np.zeros((2, 3))})


def test_outputs_that_disagree_on_the_samples_are_refused():
    loss = Loss((Term("y", Kind.KL), Term("state", Kind.SQUARED_ERROR)))
    arrays = {"y": np.zeros((4, 3)), "state": np.zeros((2, 4))}
    for of in (loss.sample_loss, loss.root_times):
        with pytest.raises(ModelInvalid, match=r"'y' 4, 'state' 2.*batch axis first"):
            of(arrays, arrays)
    with pytest.raises(ModelInvalid, match="batch axis first"):
        loss.transposed_root_times(torch.zeros(4, 7), {name: torch.from_numpy(x) for name, x in arrays.items()})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"weight": 0.0}, "weight"),
        ({"weight": math.nan}, "weight"),
        ({"axis": 0}, "axis 0"),
        ({"channels": (2, 2)}, "channels"),
        ({"channels": (-1, 2)}, "channels"),
        ({"scales": (1.0,)}, "squared_error"),
        ({"kind": Kind.SQUARED_ERROR, "scales": (1.0, 0.0)}, "scales"),
    ],
)
def test_a_term_that_cannot_be_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        Term(**{"output": "y", "kind": Kind.KL, **arguments})


@pytest.mark.parametrize(
    ("term", "words"),
    [
        (Term("y", Kind.KL, axis=2), "no axis 2"),
        (Term("y", Kind.KL, axis=-2), "no axis -2"),
        (Term("y", Kind.KL, axis=-3), "no axis -3"),
        (Term("y", Kind.KL, channels=(2, 4)), "3 channels"),
        (Term("y", Kind.SQUARED_ERROR, scales=(1.0, 1.0)), "expected 2"),
    ],
)
def test_a_term_that_does_not_fit_its_output_is_refused(term, words):
    with pytest.raises(ValueError, match=words):
        term.sample_loss(np.zeros((5, 3)), np.zeros((5, 3)))


def test_a_loss_needs_a_term():
    with pytest.raises(ValueError, match="at least one"):
        Loss(())


def test_the_document_says_all_of_every_term():
    terms = json.loads(json.dumps(SEVERAL.document()))["terms"]
    lists = [{**term, "channels": term["channels"] and tuple(term["channels"])} for term in terms]
    assert Loss(tuple(Term(**{**t, "kind": Kind(t["kind"]), "scales": tuple(t["scales"])}) for t in lists)) == SEVERAL
