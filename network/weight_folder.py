"""Large initializers in a folder beside a network, where ONNX Runtime maps them into memory in place of copying them.

A session that is opened from a message needs five times its weights at once: the message, its bytes, which the session
keeps, what ONNX Runtime parses, and what it packs for its kernels. Of weights in files it has only the last [1.31: 1.3
times 38 MB of matrices in place of 5, the same bits, and half the seconds].
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from network.onnx_graph import without_initializers

LARGE = 1 << 16
"""Bytes of a tensor from which on it lies in the folder; smaller ones may be shapes or scales, and are looked at."""
_PAGE = 4096
_OWN = "own"


class WeightFolder:
    """Values by the name of their initializer, each written when it is first asked for. The folder goes with the
    object; what ONNX Runtime has mapped by then stays."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="bitbudget-weights-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)
        self._known: dict[str, TensorProto] = {}
        self._replacements = 0

    def placed(self, tensor: TensorProto) -> TensorProto:
        """An initializer without its values, which lie in the folder; a small one as it is.

        Args:
            tensor: the same one for the same name, every time.
        """
        if not tensor.HasField("raw_data") or tensor.ByteSize() < LARGE:
            return tensor
        if tensor.name not in self._known:
            self._known[tensor.name] = self._written(_OWN, tensor.name, tensor.data_type, tensor.dims, tensor.raw_data)
        return self._known[tensor.name]

    @contextmanager
    def replacing(self, values: Iterable[tuple[str, NDArray[np.float32]]]) -> Iterator[dict[str, TensorProto]]:
        """Initializers with other values, by name, for the sessions that are opened within the block.

        Args:
            values: each is written before the next is asked for.
        """
        self._replacements += 1
        file = f"replaced{self._replacements}"
        try:
            yield {
                name: self._written(file, name, TensorProto.FLOAT, array.shape, np.ascontiguousarray(array).data)
                if array.nbytes >= LARGE
                else numpy_helper.from_array(array, name)
                for name, array in values
            }
        finally:
            (self.path / file).unlink(missing_ok=True)

    def _written(
        self, file: str, name: str, data_type: int, dims: Sequence[int], values: bytes | memoryview
    ) -> TensorProto:
        with (self.path / file).open("ab") as stream:
            place = -(-stream.tell() // _PAGE) * _PAGE  # of whole pages, which can be mapped
            stream.truncate(place)
            stream.seek(place)
            size = stream.write(values)
        stored = TensorProto(name=name, data_type=data_type, dims=dims, data_location=TensorProto.EXTERNAL)
        for key, value in (("location", file), ("offset", str(place)), ("length", str(size))):
            stored.external_data.add(key=key, value=value)
        return stored


def in_folder(model: onnx.ModelProto, folder: WeightFolder) -> onnx.ModelProto:
    """A copy of `model` with its large initializers in `folder`, made without copying them."""
    copy = without_initializers(model)
    copy.graph.initializer.extend(folder.placed(tensor) for tensor in model.graph.initializer)
    return copy
