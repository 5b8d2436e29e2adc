"""Whether samples fit a network, by the descriptions of both: what a job would refuse, known before there is one.

The rules are those of `evaluation.dataset`, which a job applies to the arrays themselves and which has the last word.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

MIN_SAMPLES = 48
TRUTH = ("labels", "targets", "boxes")
_KINDS = {"float": "float", "int": "int", "uint": "int", "bool": "bool"}
_CLASSES_AT_LEAST = 2


def match(model: Mapping[str, Any], dataset: Mapping[str, Any]) -> list[str]:
    """What is wrong with these samples for this model, one text each; nothing: they fit.

    Args:
        model, dataset: descriptions that are ready.
    """
    arrays = {array["name"]: array for array in dataset["arrays"]}
    inputs = {spec["name"]: spec for spec in model["inputs"]}
    problems: list[str] = []
    for group in _groups(arrays, inputs):
        problems += _of_group(group, inputs)
    if dataset["samples"] < MIN_SAMPLES:
        problems.append(
            f"the data hold {dataset['samples']} samples, at least {MIN_SAMPLES} are needed: they are split into "
            "calibration, search and held-out samples"
        )
    return list(dict.fromkeys(problems + list(_labels(model, arrays.values()))))


def roles(model: Mapping[str, Any], dataset: Mapping[str, Any]) -> dict[str, str | None]:
    """What each array of the dataset is for this model: the input that it feeds, its kind of truth, or None."""
    arrays = {array["name"]: array for array in dataset["arrays"]}
    inputs = {spec["name"]: spec for spec in model["inputs"]}
    known: dict[str, str | None] = {}
    for group in _groups(arrays, inputs):
        fed = {array["name"]: name for name, array in _fed(group, inputs).items()}
        for name, array in group.items():
            known[array["name"]] = fed.get(array["name"]) or _kind(name)
    return known


def _groups(arrays: Mapping[str, Any], inputs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The arrays by what they are called within their group; `evaluation.sample_groups.groups_of`."""
    groups: dict[str, dict[str, Any]] = {}
    for name, array in arrays.items():
        group, slash, own = name.partition("/")
        if not slash or name in inputs:
            return [dict(arrays)]
        groups.setdefault(group, {})[own] = array
    whole = all(set(inputs) <= members.keys() for members in groups.values())
    return list(groups.values()) if whole else [dict(arrays)]


def _kind(name: str) -> str | None:
    kind = name.split(".", 1)[0]
    return kind if kind in TRUTH else None


def _fed(group: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays of one group by the input that they feed."""
    given = {name: array for name, array in group.items() if name in inputs or _kind(name) is None}
    if len(inputs) == len(given) == 1:
        return dict(zip(inputs, given.values(), strict=True))
    return {name: given[name] for name in inputs if name in given}


def _of_group(group: Mapping[str, Any], inputs: Mapping[str, Any]) -> Iterator[str]:
    fed = _fed(group, inputs)
    missing = [name for name in inputs if name not in fed]
    used = {array["name"] for array in fed.values()}
    foreign = [name for name, array in group.items() if array["name"] not in used and _kind(name) is None]
    if missing:
        yield (
            f"no array for the input {_names(missing)}: the data hold {_names(group)}, the network takes "
            f"{_names(inputs)}. Save one array for each input under its name"
        )
    if foreign:
        yield (
            f"the array {_names(foreign)} is no input of the network, which takes {_names(inputs)}, and no labels, "
            "targets or boxes: leave it out or rename it, unless a metric of your own reads it"
        )
    for name, array in fed.items():
        yield from _misfit(array, inputs[name])
    counts = {array["name"]: array["shape"][0] for array in group.values() if array["shape"]}
    varying = {name: count for name, count in counts.items() if count != 1 or name not in used} or counts
    if len(set(varying.values())) > 1:
        listing = ", ".join(f"{name!r}: {count}" for name, count in varying.items())
        yield (
            f"the arrays differ in their number of samples ({listing}); every array has its samples along the first "
            "axis: save them from the same selection"
        )


def _misfit(array: Mapping[str, Any], spec: Mapping[str, Any]) -> Iterator[str]:
    have, want = _number_kind(array["dtype"]), _number_kind(spec["dtype"])
    if have not in (want, "bool"):
        yield (
            f"array {array['name']!r} holds {array['dtype']}, input {spec['name']!r} takes {spec['dtype']}: save it as "
            f"{spec['dtype']}, prepared the way the network was trained on it"
        )
    if spec["shape"] is not None and not _shape_fits(array["shape"], spec["shape"]):
        yield (
            f"array {array['name']!r} has the shape {_shape(array['shape'])}, input {spec['name']!r} takes "
            f"{_shape([None, *spec['shape'][1:]])}, the sample axis first: bring the array into this shape"
        )


def _shape_fits(array: Sequence[int], spec: Sequence[int | None]) -> bool:
    """Behind the sample axis come all axes of the input, or all but one that may hold the samples."""
    if not array:
        return not spec
    sample = array[1:]
    places: list[int | None] = [None]
    if len(array) == len(spec):
        places = [place for place, length in enumerate(spec) if place == 0 or length in (None, 0, 1)]
    for left_out in places:
        lengths = [length for place, length in enumerate(spec) if place != left_out]
        if len(lengths) == len(sample) and all(w in (None, g) for w, g in zip(lengths, sample, strict=True)):
            return True
    return False


def _labels(model: Mapping[str, Any], arrays: Iterator[Any] | Any) -> Iterator[str]:
    """Labels beyond the classes of the only output, where that is `[samples, classes]`."""
    outputs = model["outputs"]
    shape = outputs[0]["shape"] if len(outputs) == 1 else None
    classes = shape[1] if shape is not None and len(shape) == 2 else None
    for array in arrays:
        if array["role"] != "labels" or array["maximum"] is None:
            continue
        lowest, highest = int(array["minimum"]), int(array["maximum"])
        if highest < 0:
            yield f"all {array['name']} are below 0, which marks what does not count; expected classes 0, 1, 2, ..."
        elif classes is not None and classes >= _CLASSES_AT_LEAST and highest >= classes and len(array["shape"]) == 1:
            hint = (
                "they seem to count from 1: subtract 1"
                if (lowest, highest) == (1, classes)
                else ("check that the labels belong to this network; what does not count is marked -1")
            )
            yield (
                f"{array['name']} go from {lowest} to {highest}; output {outputs[0]['name']!r} has {classes} classes, "
                f"so expected 0 to {classes - 1}: {hint}"
            )


def _number_kind(dtype: str) -> str:
    return _KINDS.get(dtype.rstrip("0123456789"), dtype)


def _shape(shape: Sequence[int | None]) -> str:
    return "[" + ", ".join("any" if length is None else str(length) for length in shape) + "]"


def _names(names: Sequence[str] | Mapping[str, Any], most: int = 10) -> str:
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return (", ".join(repr(name[:80]) for name in listed[:most]) or "none") + more
