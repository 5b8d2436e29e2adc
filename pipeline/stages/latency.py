"""Latency: what every layer takes in every format, before anything that takes long, if the request asks for it.

Measured here, a layer is timed as a file of its own, in every format that it may get and in float, the formats taking
turns. Equal layers are timed once, and for all jobs (`pipeline.timing`). What a format seems to win within the noise
counts as nothing: a plan is not to follow luck. A weight that is slower multiplied packed than in float is unpacked.
What layers save is then scaled so that it adds up to the time of whole networks (`pipeline.latency_fit`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.schemas.job_request import LatencyTable as RequestedTable
from evaluation.latency import Latency, Timed
from evaluation.layer_model import inputs_of, layer_model, network_model
from network.graph import Layer, Network, Site
from network.normalise import dump
from network.taps import Taps
from pipeline.config import LatencyConfig, TimingConfig
from pipeline.context import Context
from pipeline.latency_fit import FLOAT, Fit, Whole, fastest, fit, read_by
from pipeline.latency_table import LatencyTable, entry, feeders, unsigned
from pipeline.reach import planned_activations
from pipeline.results import pack
from pipeline.site_names import sites_named
from pipeline.timing import Timing
from planner.errors import LatencyTableInvalid
from quantization.export.products import Products, is_in_blocks, packed_products
from quantization.formats import UnsignedFormat, parse_format

Allowed = Mapping[str, Sequence[str]]

# differences up to this many standard errors, this share, or this time count as none: the layer of 640 multiplications
# at the end of ResNet20 took from 0.0011 to 0.0029 ms in formats that run as the same kernel
NOISE_ERRORS = 3.0
NOISE_SHARE = 0.03
NOISE_MS = 0.002
# of a whole network, at most; all predictions rest on these
NETWORK_SECONDS = 2.0
# weights of the files that are loaded side by side
LOADED_BYTES = 256 << 20


def run(context: Context, config: LatencyConfig) -> bytes:
    """The table (`pipeline.latency_table`).

    Raises:
        LatencyTableInvalid: the request's table lacks a planned layer or format, or names one that does not exist.
        LimitUnreachable: no plan keeps the limits; the text names the nearest values.
    """
    space = context.workspace.untimed_space(config.space)
    if isinstance(config.times, TimingConfig):
        document = _Measuring(context, config, config.times).table(space.allowed)
    else:
        document = _given(space.network, space.allowed, config.times, config.space.export.products)
    space.completed(LatencyTable(document)).check()
    return pack(document)


class _Measuring:
    """Times files on this machine, each once for all jobs."""

    def __init__(self, context: Context, config: LatencyConfig, timing: TimingConfig) -> None:
        inputs = context.workspace.inputs(config.samples, config.space.export.opset)
        self._context = context
        self._network = inputs.network
        self._sample = inputs.latency_sample
        self._config = timing
        self._timing = Timing(context, timing)
        self._products = config.space.export.products

    def table(self, allowed: Allowed) -> dict[str, Any]:
        """Every site in the formats that it may get."""
        values = self._values()
        columns = _read(self._network, allowed)
        layers: dict[str, list[dict[str, Latency]]] = {}
        for number, site in enumerate(self._network.sites):
            pairs = _pairs(allowed[site.name], columns[site.name])
            layers[site.name] = [self._formats(site, layer, values, pairs) for layer in site.outer_layers]
            self._context.progress((number + 1) / len(self._network.sites))
        packed = {
            site.name: _packed(self._network, site, _pairs(allowed[site.name], columns[site.name]), self._products)
            for site in self._network.sites
        }
        sites = {
            name: {key: _entry(own, key, packed[name]) for key in (own[0] if own else {})}
            for name, own in layers.items()
        }
        whole = self._network_latency(dump(self._network))
        unpacked = {name: _slower(sites[name], packed[name]) for name in sites}
        fit = self._fit(sites, packed, unpacked, allowed, columns, whole.median_ms)
        if fit.scales[""] <= 0:  # as a whole nothing is won
            unpacked = {name: _formats(keys) for name, keys in packed.items()}
            fit = self._fit(sites, packed, unpacked, allowed, columns, whole.median_ms)
        for name, own in fit.times.items():
            for key, ms in own.items():
                sites[name][key]["ms"] = ms
        return {
            "source": "measured",
            "machine": self._config.processor,
            "threads": self._config.threads,
            "samples": len(next(iter(self._sample.values()))),
            "base_ms": fit.base_ms,
            "float_ms": asdict(whole),
            "scales": fit.scales,
            "unpacked": {name: names for name, names in unpacked.items() if names},
            "sites": sites,
        }

    def _fit(
        self,
        sites: Mapping[str, Mapping[str, Mapping[str, float]]],
        packed: Mapping[str, Sequence[str]],
        unpacked: Mapping[str, Sequence[str]],
        allowed: Allowed,
        columns: Mapping[str, Sequence[UnsignedFormat | None]],
        float_ms: float,
    ) -> Fit:
        """The times of layers, `unpacked` ones those of float layers, so that they add up to those of whole
        networks."""
        as_float = {name: [key for key in packed[name] if _weight_of(key) in unpacked[name]] for name in sites}
        times = {
            name: {key: own[_as_float(key) if key in as_float[name] else key]["ms"] for key in own}
            for name, own in sites.items()
        }
        wholes: dict[str, Whole] = {}
        for activation in dict.fromkeys([None, *(format_ for own in columns.values() for format_ in own)]):
            choices = {
                name: [entry(format_, activation if activation in columns[name] else None) for format_ in allowed[name]]
                for name in sites
            }
            keys = fastest(times, choices)
            timed = self._whole(keys, unpacked, allowed, activation)
            wholes["" if activation is None else activation.name] = Whole(keys, timed)
        return fit(times, float_ms, wholes, NOISE_SHARE)

    def _whole(
        self,
        keys: Mapping[str, str],
        unpacked: Mapping[str, Sequence[str]],
        allowed: Allowed,
        activation: UnsignedFormat | None,
    ) -> float:
        """Milliseconds of the network with every site in a format."""
        names = {site.name: site.weight for site in self._network.sites}
        formats = {names[name]: parse_format(_weight_of(key)) for name, key in keys.items()}
        kept = [names[name] for name, key in keys.items() if _weight_of(key) in unpacked[name]]
        activations = {
            tensor: activation
            for site in planned_activations(self._network)
            for tensor in site.tensors
            if activation is not None and activation.name in allowed.get(site.name, ())
        }
        model = network_model(self._network, formats, activations, self._products, kept)
        return self._network_latency(model).median_ms

    def _network_latency(self, model: bytes) -> Latency:
        [latency] = self._timing.known([Timed(model, self._network.batching.call(self._sample))], NETWORK_SECONDS)
        return latency

    def _values(self) -> dict[str, NDArray[np.generic]]:
        """Every tensor that a layer reads, of one run."""
        network = self._network
        values: dict[str, NDArray[np.generic]] = {}
        names = list(dict.fromkeys(name for layer in network.layers() for name in inputs_of(network, layer)))
        Taps(network, names, self._config.threads).run(
            self._sample, lambda name, array: values.update({name: np.asarray(array)})
        )
        return values

    def _formats(
        self,
        site: Site,
        layer: Layer,
        values: Mapping[str, NDArray[np.generic]],
        pairs: Sequence[tuple[str, UnsignedFormat | None]],
    ) -> dict[str, Latency]:
        """One layer in all formats, each with that of what it reads."""
        some = max(LOADED_BYTES // (4 * site.size), 2)
        latencies: list[Latency] = []
        for start in range(0, len(pairs), some):
            timed = [
                layer_model(self._network, layer, values, parse_format(name), activation, self._products)
                for name, activation in pairs[start : start + some]
            ]
            latencies += self._timing.known(timed)
        # both weights of a recurrent node stand for half of its time
        parts = sum(other.name == layer.name for other in self._network.layers())
        return {
            entry(*pair): replace(latency, median_ms=latency.median_ms / parts, spread_ms=latency.spread_ms / parts)
            for pair, latency in zip(pairs, latencies, strict=True)
        }


def _pairs(
    allowed: Sequence[str], activations: Sequence[UnsignedFormat | None]
) -> list[tuple[str, UnsignedFormat | None]]:
    """Every format of a weight, and float, with every format of what its layers read, and float."""
    return [(name, a) for a in dict.fromkeys([None, *activations]) for name in dict.fromkeys([FLOAT, *allowed])]


def _entry(of_layers: Sequence[Mapping[str, Latency]], key: str, packed: Sequence[str] = ()) -> dict[str, float]:
    """One format of a site whose layers' latencies add up; `ms` is what plans count."""
    return {
        "ms": math.fsum(_counted(layer, key, packed) for layer in of_layers),
        "median_ms": math.fsum(layer[key].median_ms for layer in of_layers),
        "spread_ms": math.hypot(*(layer[key].spread_ms for layer in of_layers)),
    }


def _counted(layer: Mapping[str, Latency], key: str, packed: Sequence[str] = ()) -> float:
    """A format's latency, or where noise explains the difference, that of its reference.

    The reference of a weight's width is the widest one with the same activation that is multiplied in the same way, as
    one of `packed`, in blocks or not, or as none of them, and of that one the float layer.
    """
    if key == FLOAT:
        return layer[key].median_ms

    def way(key: str) -> tuple[str, bool, bool]:
        is_packed = key in packed
        return read_by(key), is_packed, is_packed and is_in_blocks(parse_format(_weight_of(key)))

    alike = [other for other in layer if way(other) == way(key)]
    reference = FLOAT if key == alike[-1] else alike[-1]
    return _counted(layer, reference, packed) if _is_noise(layer[key], layer[reference]) else layer[key].median_ms


def _packed(
    network: Network, site: Site, pairs: Sequence[tuple[str, UnsignedFormat | None]], products: Products
) -> list[str]:
    """The entries in which the layers of a site multiply packed."""
    read = {name for layer in site.outer_layers for name in inputs_of(network, layer)}
    return [
        entry(name, activation)
        for name, activation in pairs
        if packed_products(
            network, {site.weight: parse_format(name)}, products, activations=() if activation is None else read
        )
    ]


def _formats(packed: Sequence[str]) -> list[str]:
    """The formats of weights of these entries."""
    return list(dict.fromkeys(map(_weight_of, packed)))


def _slower(own: Mapping[str, Mapping[str, float]], packed: Sequence[str]) -> list[str]:
    """Of the formats that are multiplied packed those that win nothing over the float layer; where noise could explain
    what they win, it is more likely that they do."""

    def times(key: str) -> tuple[float, float]:
        return own[key]["ms"], own[key]["median_ms"]

    return [name for name in _formats(packed) if times(name) >= times(FLOAT)]


def _weight_of(key: str) -> str:
    """The format of the weight."""
    return key.partition("+")[0]


def _as_float(key: str) -> str:
    """The float weight that reads the same."""
    return FLOAT + key.removeprefix(_weight_of(key))


def _is_noise(latency: Latency, other: Latency) -> bool:
    difference = abs(latency.median_ms - other.median_ms)
    errors = math.hypot(latency.spread_ms, other.spread_ms)
    return difference <= max(NOISE_ERRORS * errors, NOISE_SHARE * other.median_ms, NOISE_MS)


def _given(network: Network, allowed: Allowed, requested: RequestedTable, products: Products) -> dict[str, Any]:
    """The request's own table, complete. Inputs are rounded only where it says that this is faster than float."""
    entries: dict[str, Mapping[str, float]] = {}
    given = requested.__pydantic_extra__
    for name, site in sites_named(network, given, "latency_table", LatencyTableInvalid, LatencyTableInvalid).items():
        if site.name in entries:
            raise LatencyTableInvalid(f"latency_table names {site.name!r} twice, once as {name!r}; say it once")
        entries[site.name] = given[name]
    columns = _read(network, allowed)
    # what only reads a table multiplies nothing: it takes the time of the base, unless the request says otherwise
    tables = {site.name: dict.fromkeys(allowed[site.name], 0.0) for site in network.sites if site.is_table}
    entries = tables | entries
    planned = {
        site.name: [entry(name, activation) for activation in columns[site.name] for name in allowed[site.name]]
        for site in network.sites
    }
    missing = [f"{name}: {key}" for name, keys in planned.items() for key in keys if key not in entries.get(name, {})]
    if missing:
        raise LatencyTableInvalid(
            f"latency_table lacks {len(missing):,} of the formats that may be planned: {'; '.join(missing[:20])}"
            f"{'; ...' if len(missing) > 20 else ''}; add them, or allow fewer formats"
        )
    sites = {name: {key: {"ms": ms} for key, ms in times.items()} for name, times in entries.items() if name in planned}
    unpacked = {
        site.name: [
            name
            for name in _packed(network, site, [(name, None) for name in allowed[site.name]], products)
            if not is_in_blocks(parse_format(name))
            and not entries[site.name].get(name, math.inf) < entries[site.name].get(FLOAT, 0.0)
        ]
        for site in network.sites
    }
    return {
        "source": "given",
        "base_ms": requested.base_ms,
        "unpacked": {name: names for name, names in unpacked.items() if names},
        "sites": sites,
    }


def _read(network: Network, allowed: Allowed) -> dict[str, list[UnsignedFormat | None]]:
    """What the layers of every site may read: the formats of the activation that feeds them, else float, None."""
    feeder = feeders(network, allowed)
    return {
        site.name: [unsigned(name) for name in allowed[feeder[site.name]]] if site.name in feeder else [None]
        for site in network.sites
    }
