"""Texts as token ids, by the tokenizer that the network was trained with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bitbudget_client.samples.options import SampleOptions
from bitbudget_client.samples.refusal import SamplesRefused, library, listing

TEXT = "text"
CONFIG = "tokenizer.json"
_PARTS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
_DEFAULT = ("input_ids", "attention_mask")
_PADDING = ("[PAD]", "<pad>")
_AT_ONCE = 1000


def tokenized(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str], path: Path, options: SampleOptions
) -> tuple[dict[str, Any], str]:
    """Arrays int64 `[rows, max_length]` for the inputs of the network, and what was done in words.

    Raises:
        SamplesRefused: `max_length` is not stated, the tokenizer cannot be read, or has no token to fill up with.
    """
    numpy = library("numpy", "numpy")
    if options.max_length is None:
        raise SamplesRefused(
            "--max-length is not stated: how many tokens every text has, longer ones are cut and shorter ones filled up"
        )
    tokenizer, padding = _tokenizer(path, options.max_length)
    names = _inputs(options.input_names)
    arrays = {name: numpy.empty((len(rows), options.max_length), numpy.int64) for name in names}
    cut = 0
    for start in range(0, len(rows), _AT_ONCE):
        texts = [tuple(str(row[name]) for name in columns) for row in rows[start : start + _AT_ONCE]]
        encodings = tokenizer.encode_batch([text if len(text) > 1 else text[0] for text in texts])
        cut += sum(bool(encoding.overflowing) for encoding in encodings)
        for name, part in names.items():
            arrays[name][start : start + len(encodings)] = [getattr(encoding, part) for encoding in encodings]
    note = f"{len(rows):,} texts of {listing(columns)} as {options.max_length} tokens, filled up with {padding!r}"
    return arrays, f"{note}, {cut:,} of them cut"


def _tokenizer(path: Path, max_length: int) -> tuple[Any, str]:
    tokenizers = library("tokenizers", "tokenizers")
    path = path / CONFIG if path.is_dir() else path
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:
        raise SamplesRefused(f"{path} cannot be read as a {CONFIG}: {error}") from error
    own = tokenizer.padding or {}
    token = own.get("pad_token") or _padding_token(tokenizer, path)
    filled = {"direction": own.get("direction", "right"), "pad_type_id": own.get("pad_type_id", 0)}
    tokenizer.enable_padding(**filled, pad_id=tokenizer.token_to_id(token), pad_token=token, length=max_length)
    tokenizer.enable_truncation(max_length)
    return tokenizer, str(token)


def _padding_token(tokenizer: Any, path: Path) -> str:
    known = [token for token in _PADDING if tokenizer.token_to_id(token) is not None]
    if len(known) == 1:
        return known[0]
    raise SamplesRefused(
        f"{path} does not say which token texts are filled up with; save the tokenizer with its padding: "
        "tokenizer.enable_padding(pad_id=..., pad_token=...), then tokenizer.save(path)"
    )


def _inputs(names: Sequence[str]) -> dict[str, str]:
    """What of an encoding each input gets: by its name, or the ids where the network has one input."""
    if not names:
        return {name: _PARTS[name] for name in _DEFAULT}
    if len(names) == 1:
        return {names[0]: _PARTS.get(names[0], "ids")}
    unknown = [name for name in names if name not in _PARTS]
    if unknown:
        raise SamplesRefused(
            f"the network has the inputs {listing(names)}; texts give {listing(_PARTS)}, so that {listing(unknown)} is "
            "missing: prepare the samples as an .npz"
        )
    return {name: _PARTS[name] for name in names}
