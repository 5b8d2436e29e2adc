"""The zoo: networks of many kinds, trained in seconds.

    python -m benchmarks.certificates.networks [--only NAME]

shows each entry with what it costs and what null networks lose in it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

from benchmarks.certificates.entry import BUILDERS, Entry
from benchmarks.certificates.null import null_outputs
from benchmarks.certificates.running import outputs_of
from benchmarks.certificates.zoo import (
    classifiers,
    decoders,
    detectors,
    heads,
    images,
    positions,
    recurrent,
    regressors,
)

FAMILIES = (classifiers, detectors, positions, images, regressors, heads, recurrent, decoders)
NAMES = tuple(BUILDERS)


def build(name: str) -> Entry:
    """The entry called `name`: trains it.

    Raises:
        KeyError: there is none; the text lists all.
    """
    if name not in BUILDERS:
        raise KeyError(f"no network is called {name!r}; there are {', '.join(NAMES)}")
    return BUILDERS[name]()


def entries(names: tuple[str, ...] = NAMES) -> Iterator[Entry]:
    """Entries one after another, in the order of the files."""
    yield from map(build, names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=NAMES)
    for name in parser.parse_args().only:
        start = time.perf_counter()
        made = build(name)
        seconds = time.perf_counter() - start
        outputs = outputs_of(made.model, made.fresh, made.batch_axes)
        losses = {kind: made.check(outputs, null, made.fresh) for kind, null in null_outputs(outputs).items()}
        print(f"{name}: {seconds:.1f} s, {len(made.model):,} bytes, outputs")
        for output, value in outputs.items():
            print(f"    {output} {value.dtype} {list(value.shape)}")
        for kind, values in losses.items():
            print(f"    {kind}: " + ", ".join(f"{key} {value:.3g}" for key, value in values.items()))


if __name__ == "__main__":
    main()
