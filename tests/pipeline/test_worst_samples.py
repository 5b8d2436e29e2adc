"""What a job keeps of the samples that lose most."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from evaluation.metrics.claim import Claim, Measured
from evaluation.metrics.measurement import Measurement
from evaluation.outputs import Meaning, OutputFacts
from evaluation.thumbnails import SIDE
from pipeline.worst_samples import MOST_BYTES, MOST_SAMPLES, samples_document, worst_places


def measured(lost: list[float]) -> Measured:
    losses = np.array(lost)
    return Measured.of(Measurement("top1", 0.9, 0.8, losses, np.ones(len(losses))))


def test_the_samples_that_lose_most_come_first_and_none_that_does_not_lose() -> None:
    assert worst_places(measured([0.0, 2.0, -1.0, 3.0, 2.0]), 0).tolist() == [3, 1, 4]
    assert worst_places(measured([0.0, -1.0]), 0).tolist() == []
    assert worst_places(measured([1.0] * 50), 0).tolist() == list(range(MOST_SAMPLES))


@dataclass
class Samples:
    """What `samples_document` takes of the inputs of a job."""

    inputs: dict[str, np.ndarray]

    @property
    def dataset(self) -> Samples:
        return self


def document(outputs, facts: OutputFacts, right=None, images=None) -> dict:
    given = Samples({"image": np.zeros((20, 3)) if images is None else images})
    before = {facts.name: outputs[0]}, {facts.name: outputs[1]}
    claim = Claim("top1", (facts.name,))
    lost = [1.0] * len(outputs[0])
    text = samples_document(given, np.arange(3, 3 + len(lost)), lost, before, claim, [facts], right)
    assert len(text) <= MOST_BYTES
    return json.loads(text)


CLASSES = OutputFacts("logits", "float32", (4,), Meaning.CLASSES, "", 1)
VALUES = OutputFacts("values", "float32", (2, 3), Meaning.VALUES, "", None)


def test_classes_are_given_with_their_probabilities_in_both_files() -> None:
    before, after = np.log([[0.7, 0.2, 0.06, 0.04]]), np.log([[0.1, 0.1, 0.2, 0.6]])
    given = document((before + 5, after - 3), CLASSES, right=np.array([0]))
    (sample,) = given["samples"]
    assert (sample["index"], sample["right"], sample["lost"], sample["thumbnail"]) == (3, 0, 1.0, None)
    rows = sample["outputs"][0]["rows"]
    assert [row["at"] for row in rows] == [[0], [1], [2], [3]]
    assert [row["float"] for row in rows] == pytest.approx([0.7, 0.2, 0.06, 0.04])
    assert [row["quantized"] for row in rows] == pytest.approx([0.1, 0.1, 0.2, 0.6])


def test_where_no_sample_loses_there_is_none() -> None:
    assert document((np.zeros((0, 4)), np.zeros((0, 4))), CLASSES)["samples"] == []


def test_probabilities_stay_what_they_are() -> None:
    given = document((np.array([[0.7, 0.3, 0.0, 0.0]]), np.array([[0.5, 0.5, 0.0, 0.0]])), CLASSES)
    assert given["samples"][0]["outputs"][0]["rows"][0]["float"] == 0.7


def test_of_values_those_that_differ_most_are_given_with_their_places() -> None:
    before = np.arange(30, dtype=np.float32).reshape(1, 5, 6)
    after = before.copy()
    after[0, 2, 3] += 9
    after[0, 4, 1] = np.nan
    rows = document((before, after), VALUES)["samples"][0]["outputs"][0]["rows"]
    assert len(rows) == 6
    found = {tuple(row["at"]): row for row in rows}
    assert (found[2, 3]["float"], found[2, 3]["quantized"]) == (15.0, 24.0)
    assert found[4, 1]["quantized"] is None


def test_texts_are_given_as_they_are() -> None:
    rows = document((np.array([["a", "b"]]), np.array([["a", "c"]])), VALUES)["samples"][0]["outputs"][0]["rows"]
    assert [(row["float"], row["quantized"]) for row in rows] == [("a", "a"), ("b", "c")]


def test_pictures_are_small_and_the_document_is_bounded() -> None:
    noise = np.random.default_rng(0).normal(size=(20, 3, 300, 200)).astype(np.float32)
    outputs = np.zeros((MOST_SAMPLES, 4)), np.ones((MOST_SAMPLES, 4))
    given = document(outputs, CLASSES, images=noise)
    pictures = [sample["thumbnail"] for sample in given["samples"]]
    assert pictures[0] is not None
    image = Image.open(io.BytesIO(base64.b64decode(pictures[0])))
    assert (image.size, image.mode) == ((43, SIDE), "RGB")
