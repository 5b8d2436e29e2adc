"""The candidates of a job: for every site its rounded weights, in order of bits, and for every activation site the
parameters that its values take in each format.

Their order is that of every array of the analysis: weights first, then activations; sites in graph order, formats by
bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import IO, Any, overload

from numpy.typing import NDArray

from network.activations import ActivationSite
from network.graph import Network
from pipeline.results import Archive, Arrays, pack, pack_into, unpack
from quantization.activations.quantized import QuantizedActivation
from quantization.formats import FloatFormat, Format, UnsignedFormat, parse_format, weight_format
from quantization.storage.families import quantized_weight
from quantization.storage.weights import Floats, QuantizedWeight
from sensitivity.estimate import ActivationChange, Change, WeightChange

Weights = Mapping[str, Sequence[QuantizedWeight]]


@dataclass(frozen=True, slots=True)
class ActivationCandidates:
    """An activation site with its parameters in each format, in order of bits."""

    site: ActivationSite
    formats: tuple[QuantizedActivation, ...]

    def quantized(self, format_: UnsignedFormat) -> dict[str, QuantizedActivation]:
        """The parameters of every tensor of the site, as `quantization.export.export` takes them.

        Raises:
            KeyError: the site was not calibrated in this format.
        """
        for activation in self.formats:
            if activation.format == format_:
                return dict.fromkeys(self.site.tensors, activation)
        raise KeyError(f"activation {self.site.name} was not calibrated as {format_.name}")


@dataclass(frozen=True)
class Candidates:
    """All candidates of a job by site name, formats in order of bits; `methods` says how each weight was rounded, and
    `notes` what the samples did not tell about some of them."""

    weights: Weights
    activations: Mapping[str, ActivationCandidates]
    methods: Mapping[str, str]
    notes: Mapping[str, str]

    @classmethod
    def unpack(cls, blob: bytes) -> Candidates:
        """What `pack_candidates` was given, in its order."""
        document, arrays = unpack(blob)
        return cls._of(document, weights_from_arrays(document, arrays))

    @classmethod
    def read(cls, file: IO[bytes]) -> Candidates:
        """The same of a file, which it closes in the end; weights are read when they are asked for, each time."""
        archive = Archive(file)
        fields: dict[str, list[str]] = {}
        for name in archive.names:
            place, _, field = name.rpartition("/")
            fields.setdefault(place, []).append(field)
        document = archive.document
        weights = {
            name: StoredWeights(archive, fields, str(place), document["formats"][name])
            for place, name in enumerate(document["sites"])
        }
        return cls._of(document, weights)

    @classmethod
    def _of(cls, document: Mapping[str, Any], weights: Weights) -> Candidates:
        activations = {entry["name"]: _activation(entry) for entry in document["activations"]}
        return cls(weights, activations, document["methods"], document["notes"])

    @property
    def count(self) -> int:
        """How many candidates there are, every weight counted with the most that one has."""
        activations = sum(len(site.formats) for site in self.activations.values())
        return len(self.weights) * max(map(len, self.weights.values())) + activations

    def format_names(self, network: Network) -> dict[str, list[str]]:
        """Format names of the candidates by site."""
        sites = {site.name: format_names(self.weights[site.name]) for site in network.sites}
        activations = {name: [own.format.name for own in site.formats] for name, site in self.activations.items()}
        return {**sites, **activations}

    def changes(self, network: Network) -> tuple[Change, ...]:
        """One change for each candidate, as the estimators take them."""
        weights = [
            WeightChange(site.name, format_, site.weight, partial(_values, self.weights[site.name], place))
            for site in network.sites
            for place, format_ in enumerate(format_names(self.weights[site.name]))
        ]
        activations = [
            # its other tensors only move the values of the first
            ActivationChange(name, own.format.name, {site.site.tensors[0]: own.apply})
            for name, site in self.activations.items()
            for own in site.formats
        ]
        return (*weights, *activations)

    def planned_weights(self, network: Network, formats: Mapping[str, Format]) -> dict[str, QuantizedWeight]:
        """The rounded weights of a plan by initializer name; what stays float is not among them."""
        return {
            site.weight: own[format_names(own).index(formats[site.name].name)]
            for site in network.sites
            if not isinstance(formats[site.name], FloatFormat)
            for own in [self.weights[site.name]]
        }

    def planned_activations(self, formats: Mapping[str, Format]) -> dict[str, QuantizedActivation]:
        """The activations of a plan by tensor name; what stays float is not among them."""
        tensors: dict[str, QuantizedActivation] = {}
        for name, format_ in formats.items():
            if isinstance(format_, UnsignedFormat):
                tensors |= self.activations[name].quantized(format_)
        return tensors


class StoredWeights(Sequence[QuantizedWeight]):
    """The weights of one site in a file, formats in order of bits: each is read when it is asked for.

    Args:
        fields: names of arrays by `place/format` of all weights in the file.
        place: of the site.
        names: of its formats.
    """

    def __init__(self, archive: Archive, fields: Mapping[str, Sequence[str]], place: str, names: Sequence[str]) -> None:
        self._archive = archive
        self._fields = fields
        self._place = place
        self.format_names = list(names)

    def __len__(self) -> int:
        return len(self.format_names)

    @overload
    def __getitem__(self, place: int) -> QuantizedWeight: ...

    @overload
    def __getitem__(self, place: slice) -> list[QuantizedWeight]: ...

    def __getitem__(self, place: int | slice) -> QuantizedWeight | list[QuantizedWeight]:
        if isinstance(place, slice):
            return [self[own] for own in range(len(self))[place]]
        name = self.format_names[place]
        key = f"{self._place}/{name}"
        return quantized_weight(
            weight_format(name), {field: self._archive[f"{key}/{field}"] for field in self._fields[key]}
        )


def format_names(weights: Sequence[QuantizedWeight]) -> list[str]:
    """Of the weights of a site, none of which is read for it."""
    if isinstance(weights, StoredWeights):
        return weights.format_names
    return [weight.format.name for weight in weights]


def _values(weights: Sequence[QuantizedWeight], place: int) -> Floats:
    return weights[place].dequantize()


def pack_candidates(
    weights: Weights,
    methods: Mapping[str, str],
    activations: Sequence[ActivationCandidates] = (),
    notes: Mapping[str, str] = MappingProxyType({}),
) -> bytes:
    """One blob of all candidates.

    Args:
        weights: by site name, formats in order of bits.
        methods: how each weight was rounded, by site name: "gptq" or "nearest", and after a colon why or with what.
        activations: sites in graph order.
        notes: by site name, of those that there is something to say of.
    """
    document, arrays = weights_to_arrays(weights)
    return pack(document | _of_candidates(methods, activations, notes), arrays)


def pack_candidates_into(
    file: IO[bytes],
    formats: Mapping[str, Sequence[str]],
    weights: Callable[[str], Sequence[QuantizedWeight]],
    methods: Mapping[str, str],
    activations: Sequence[ActivationCandidates] = (),
    notes: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """The same blob into a file.

    Args:
        formats: names by site name, in order of bits.
        weights: of a site, in these formats; called when its turn comes.
    """
    document = {"sites": list(formats), "formats": {name: list(own) for name, own in formats.items()}}
    arrays = (array for place, name in enumerate(formats) for own in weights(name) for array in _arrays(place, own))
    pack_into(file, document | _of_candidates(methods, activations, notes), arrays)


def _of_candidates(
    methods: Mapping[str, str], activations: Sequence[ActivationCandidates], notes: Mapping[str, str]
) -> dict[str, Any]:
    return {
        "methods": dict(methods),
        "notes": dict(notes),
        "activations": [
            {
                "name": activation.site.name,
                "tensors": list(activation.site.tensors),
                "elements": activation.site.elements,
                "formats": [[own.format.name, own.scale, own.zero_point] for own in activation.formats],
            }
            for activation in activations
        ],
    }


def weights_to_arrays(rounded: Weights) -> tuple[dict[str, Any], Arrays]:
    """`rounded` by name, as a document and arrays that `pipeline.results.pack` takes, with others if need be."""
    arrays: Arrays = {}
    for index, weights in enumerate(rounded.values()):
        for weight in weights:
            arrays |= _arrays(index, weight)
    formats = {name: format_names(weights) for name, weights in rounded.items()}
    return {"sites": list(rounded), "formats": formats}, arrays


def _arrays(place: int, weight: QuantizedWeight) -> Iterator[tuple[str, NDArray[Any]]]:
    """The arrays of a weight of the site at `place`, by name."""
    for field, array in weight.arrays().items():
        yield f"{place}/{weight.format.name}/{field}", array


def weights_from_arrays(document: Mapping[str, Any], arrays: Arrays) -> dict[str, list[QuantizedWeight]]:
    """What `weights_to_arrays` was given, in its order."""
    of_weights: dict[str, Arrays] = {}
    for key, array in arrays.items():
        place, _, field = key.rpartition("/")
        of_weights.setdefault(place, {})[field] = array
    return {
        name: [
            quantized_weight(weight_format(format_), of_weights[f"{index}/{format_}"])
            for format_ in document["formats"][name]
        ]
        for index, name in enumerate(document["sites"])
    }


def _activation(entry: Mapping[str, Any]) -> ActivationCandidates:
    formats = []
    for name, scale, zero_point in entry["formats"]:
        format_ = parse_format(name)
        if not isinstance(format_, UnsignedFormat):
            raise ValueError(f"candidates of activations are unsigned formats, got {name}")
        formats.append(QuantizedActivation(format_, scale, zero_point))
    site = ActivationSite(entry["name"], tuple(entry["tensors"]), entry["elements"])
    return ActivationCandidates(site, tuple(formats))
