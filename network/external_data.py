"""A model whose weights lie in files beside it, put together into one.

A tensor names its file by `location`; that name is only ever compared with the names of the files that came along.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath

import onnx_ir as ir
from onnx import ModelProto, TensorProto

from network.admission import AdmissionLimits, parsed
from network.errors import ExternalData, ModelTooLarge, listing
from network.onnx_graph import is_external, messages


def locations(model: ModelProto) -> list[str]:
    """The names of the files that tensors of the model lie in, each once.

    Raises:
        ExternalData: a name is a path that leads out of the model's folder, or says nothing.
    """
    return list(dict.fromkeys(_Entry(tensor).location for tensor in _external(model)))


def embedded(
    data: bytes, sizes: Mapping[str, int], read: Callable[[str], bytes], limits: AdmissionLimits
) -> ModelProto:
    """The model in `data` with all its tensors inside.

    Args:
        data: the .onnx file.
        sizes: bytes of each file that came along, by its name as `location` says it.
        read: the contents of one of these.
        limits: of the file that comes out.

    Raises:
        NotOnnx, ModelInvalid, ModelTooLarge: see `network.admission.parsed`.
        ModelTooLarge: with its tensors the model has more bytes than are allowed.
        ExternalData: a file is missing, or ends before a tensor does.
    """
    model = parsed(data, limits)
    tensors = _external(model)
    entries = [_Entry(tensor) for tensor in tensors]
    missing = sorted({entry.location for entry in entries} - sizes.keys())
    if missing:
        raise ExternalData(
            f"the model's tensors lie in {listing(list(map(repr, missing)))}, which did not come along (what came: "
            f"{listing(list(map(repr, sizes))) or 'nothing'}); send the .onnx file and its data files together"
        )
    spans = [entry.span(sizes[entry.location]) for entry in entries]
    total = len(data) + sum(stop - start for start, stop in spans)
    if total > limits.max_model_bytes:
        raise ModelTooLarge(
            f"with its tensors inside the model has {total:,} bytes, at most {limits.max_model_bytes:,} are allowed "
            "(no ONNX file of one piece is larger than 2 GiB)"
        )
    for location in dict.fromkeys(entry.location for entry in entries):
        contents = memoryview(read(location))
        for tensor, entry, (start, stop) in zip(tensors, entries, spans, strict=True):
            if entry.location == location:
                tensor.raw_data = bytes(contents[start:stop])
                tensor.ClearField("external_data")
                tensor.ClearField("data_location")
    return model


def _external(model: ModelProto) -> list[TensorProto]:
    return [message for message in messages(model) if isinstance(message, TensorProto) and is_external(message)]


class _Entry:
    """Where the bytes of a tensor are."""

    def __init__(self, tensor: TensorProto) -> None:
        said = {entry.key: entry.value for entry in tensor.external_data}
        self._tensor = tensor.name
        self.location = str(PurePosixPath(said.get("location", "")))
        if self.location == "." or self.location.startswith("/") or ".." in self.location.split("/"):
            raise ExternalData(
                f"tensor {tensor.name!r} lies in {said.get('location', '')!r}; expected the name of a file beside the "
                "model: save it again with onnx.save_model"
            )
        self._offset = self._number(said.get("offset"), 0)
        self._length = self._number(said.get("length"), _bytes(tensor))

    def span(self, size: int) -> tuple[int, int]:
        """First byte and the one behind the last, in a file of this size."""
        stop = self._offset + self._length
        if stop > size:
            raise ExternalData(
                f"tensor {self._tensor!r} ends at byte {stop:,} of {self.location!r}, which has {size:,}; is the file "
                "cut off, or that of another model?"
            )
        return self._offset, stop

    def _number(self, text: str | None, default: int) -> int:
        if text is None:
            return default
        if not (text.isascii() and text.isdigit() and len(text) < 20):
            raise ExternalData(
                f"tensor {self._tensor!r} has {text[:40]!r} as the place of its bytes; expected a number: save it "
                "again with onnx.save_model"
            )
        return int(text)


def _bytes(tensor: TensorProto) -> int:
    """What a tensor of that type and shape takes; 0 where the type has no fixed length."""
    try:
        bits = int(ir.DataType(tensor.data_type).bitwidth)
    except (TypeError, ValueError):
        return 0
    elements: int = math.prod(max(length, 0) for length in tensor.dims)
    return -(-elements * bits // 8)
