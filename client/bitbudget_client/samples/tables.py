"""Rows of a CSV, TSV, JSON Lines or text file: numbers as they are, texts through the network's tokenizer."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bitbudget_client.samples.classes import labelled
from bitbudget_client.samples.options import SampleOptions
from bitbudget_client.samples.prepared import PreparedSamples
from bitbudget_client.samples.refusal import SamplesRefused, library, listing
from bitbudget_client.samples.texts import TEXT, tokenized

SUFFIXES = frozenset({".csv", ".tsv", ".jsonl", ".txt"})
Row = Mapping[str, Any]


def read_table(path: Path, options: SampleOptions) -> PreparedSamples:
    """The samples in a file of rows; with a tokenizer they are texts, else numbers.

    Raises:
        SamplesRefused: no rows, an unknown column, or a value that is no number; names the line.
    """
    rows = _rows(path)
    if not rows:
        raise SamplesRefused(f"{path} has no rows; expected a header line and a line for each sample")
    known = list(rows[0])
    asked = [*options.text_columns, *options.target_columns, *options.columns]
    asked += [options.label_column] if options.label_column else []
    unknown = [name for name in asked if name not in known]
    if unknown:
        raise SamplesRefused(f"{path} has no column {listing(unknown)}; it has {listing(known)}")
    arrays: dict[str, Any] = {}
    notes: list[str] = []
    classes: tuple[str, ...] = ()
    if options.tokenizer is not None:
        inputs, note = tokenized(rows, _text_columns(path, known, options), options.tokenizer, options)
        arrays.update(inputs)
        notes.append(note)
    else:
        inputs, note = _numbers(path, rows, known, options)
        arrays.update(inputs)
        notes.append(note)
    if options.label_column:
        names = [str(row[options.label_column]) for row in rows]
        arrays["labels"], classes, note = labelled(names, options.classes)
        notes.append(note)
    if options.target_columns:
        arrays["targets"] = _matrix(path, rows, options.target_columns)
    return PreparedSamples(arrays, classes, tuple(notes))


def _rows(path: Path) -> Sequence[Row]:
    kind = path.suffix.lower()
    with path.open(newline="", encoding="utf-8-sig") as file:
        if kind == ".txt":
            return [{TEXT: line.rstrip("\r\n")} for line in file if line.strip()]
        if kind == ".jsonl":
            return _objects(path, file)
        reader = csv.DictReader(file, delimiter="\t" if kind == ".tsv" else ",", restkey="", restval=None)
        rows = []
        for row in reader:
            if "" in row or None in row.values():
                raise SamplesRefused(
                    f"{path} line {reader.line_num} has another number of fields than the header, which names "
                    f"{listing(reader.fieldnames or ())}; quote fields that hold the separator"
                )
            rows.append(row)
        return rows


def _objects(path: Path, file: Any) -> Sequence[Row]:
    rows: list[Row] = []
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise SamplesRefused(f"{path} line {number} is not JSON: {error}") from error
        if not isinstance(row, dict) or (rows and row.keys() != rows[0].keys()):
            members = listing(rows[0]) if rows else "an object"
            raise SamplesRefused(f"{path} line {number} has other members than the first; expected {members}")
        rows.append(row)
    return rows


def _text_columns(path: Path, known: Sequence[str], options: SampleOptions) -> Sequence[str]:
    if options.text_columns:
        return options.text_columns
    rest = [name for name in known if name != options.label_column and name not in options.target_columns]
    if len(rest) == 1:
        return rest
    raise SamplesRefused(
        f"{path} has the columns {listing(known)}; say which holds the texts with --text-column, twice for pairs"
    )


def _numbers(
    path: Path, rows: Sequence[Row], known: Sequence[str], options: SampleOptions
) -> tuple[dict[str, Any], str]:
    numpy = library("numpy", "numpy")
    others = (options.label_column, *options.target_columns)
    names = options.columns or [name for name in known if name not in others]
    if not names:
        raise SamplesRefused(f"{path} has no column beside labels and targets; expected what the network reads")
    if path.suffix.lower() == ".txt":
        raise SamplesRefused(f"{path} is text; give the network's --tokenizer tokenizer.json and --max-length")
    if options.table == "matrix":
        name = options.input_names[0] if options.input_names else "features"
        matrix = _matrix(path, rows, names)
        return {name: matrix}, f"{len(rows):,} rows of {len(names)} columns as one input: {listing(names)}"
    arrays = {}
    for name in names:
        column = _matrix(path, rows, [name], numpy.float64)
        whole = numpy.isfinite(column).all() and (column == numpy.floor(column)).all()
        is_whole = whole and not any(_has_point(row[name]) for row in rows)
        arrays[name] = column.astype(numpy.int64 if is_whole else numpy.float32)
    return arrays, f"{len(rows):,} rows, each of {len(names)} columns an input: {listing(names)}"


def _has_point(value: Any) -> bool:
    return any(sign in str(value).lower() for sign in (".", "e"))


def _matrix(path: Path, rows: Sequence[Row], names: Sequence[str], dtype: Any = None) -> Any:
    """The numbers in these columns, `[rows, columns]`, float32 by default."""
    numpy = library("numpy", "numpy")
    values = numpy.empty((len(rows), len(names)), numpy.float64)
    for place, row in enumerate(rows):
        values[place] = [_number(row[name], f"{path}, row {place + 1}: column {name!r}") for name in names]
    return values.astype(dtype or numpy.float32)


def _number(value: Any, where: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise SamplesRefused(
            f"{where} holds {str(value)[:60]!r}, expected a number; name the columns that the network reads with "
            "--column, and the labels with --label-column"
        ) from None
