"""Values of tensors that lie in a file beside the model's, as ONNX's external data.

Source: https://onnx.ai/onnx/repo-docs/ExternalData.html
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto

from quantization.errors import FileNotAudited


def place_outside(tensor: TensorProto, location: str, offset: int, length: int) -> None:
    """Let a tensor without values say that they are `length` bytes of the file `location`, from `offset` on."""
    place = {"location": location, "offset": offset, "length": length}
    tensor.external_data.extend(onnx.StringStringEntryProto(key=key, value=str(value)) for key, value in place.items())
    tensor.data_location = TensorProto.EXTERNAL


def is_outside(tensor: TensorProto) -> bool:
    return bool(tensor.data_location == TensorProto.EXTERNAL)


def values_size(tensor: TensorProto) -> int:
    """Bytes of the values, wherever they are."""
    return _number(tensor, "length") if is_outside(tensor) else len(tensor.raw_data)


def check_outside(graph: onnx.GraphProto, folder: Path | None) -> int:
    """That all values outside of the model lie in files of `folder`; the bytes of those files.

    Raises:
        FileNotAudited: they lie elsewhere, there is no folder, or a file ends before its values.
    """
    sizes: dict[str, int] = {}
    for tensor in filter(is_outside, graph.initializer):
        location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        if folder is None or not location or Path(location).name != location or not (folder / location).is_file():
            raise FileNotAudited(
                f"tensor {tensor.name}: its values lie in {location!r}, which is no file beside the model; audit the "
                "model by its path, with that file in the same folder"
            )
        size = sizes.setdefault(location, (folder / location).stat().st_size)
        if _number(tensor, "offset") + _number(tensor, "length") > size:
            raise FileNotAudited(f"tensor {tensor.name}: {location} has {size} bytes and ends before its values")
    return sum(sizes.values())


def _number(tensor: TensorProto, key: str) -> int:
    """Of the entries that say where the values are; 0 where there is none."""
    value = next((entry.value for entry in tensor.external_data if entry.key == key), "0")
    if not value.isascii() or not value.isdigit():
        raise FileNotAudited(f"tensor {tensor.name}: the {key} of its values is {value!r}, expected a number")
    return int(value)
