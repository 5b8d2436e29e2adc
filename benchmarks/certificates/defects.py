"""Files with planted defects and honest ones, to be certified against the float networks that they were made from.

A defect is caught when the certificate is not met, or when an inspection has a finding that is a defect; on an honest
file neither may happen. Which of both should catch a defect is stated with it: some are in no byte of the file (ranges
of activations from other data), some are in the bytes and cost a small network nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType

from benchmarks.certificates.float_networks import (
    Arrays,
    FloatNetwork,
    convolutional,
    perceptron,
    transformer,
    two_heads,
)
from benchmarks.certificates.honest_files import aimet, dynamic, equalized, folded, in_blocks, ours, static
from benchmarks.certificates.tampering import (
    copy_of,
    exchanged,
    in_order,
    maker_of,
    node_of,
    reading,
    renamed_output,
    reordered,
    tensor,
    tensors_ending,
    with_tensor,
    with_values,
    without_tensors,
)
from quantization.formats import CodebookFormat, Granularity, HalfFormat, IntegerFormat, PowerFormat

_LAYERS = ("conv1", "conv2", "conv3", "conv4")
_WEIGHT = "ConvBnFusion_W_{}.weight"  # what ONNX Runtime's preparation calls a folded weight
_U8U8 = {"weight_type": QuantType.QUInt8, "activation_type": QuantType.QUInt8}
_QDQ = {
    "quant_format": QuantFormat.QDQ,
    "weight_type": QuantType.QInt8,
    "activation_type": QuantType.QUInt8,
}
_QOPERATOR = {
    "quant_format": QuantFormat.QOperator,
    "weight_type": QuantType.QInt8,
    "activation_type": QuantType.QUInt8,
}


@dataclass(frozen=True)
class Case:
    """A quantized file beside its float network: `samples` are its inputs by name, and `labels`.

    `caught_by` is empty for an honest file; else `inspection` where the file itself shows the defect, `measurement`
    where samples alone do.
    """

    name: str
    float_file: bytes
    quantized_file: bytes
    samples: Arrays
    caught_by: str

    @property
    def is_defective(self) -> bool:
        return bool(self.caught_by)


def cases() -> Iterator[Case]:
    """All of them, defective ones first; trains the networks, in half a minute."""
    for name, make in _DEFECTS.items():
        network, file = make()
        caught_by = "measurement" if name in _MEASURED else "inspection"
        yield Case(name, _bytes(network.model), _bytes(file), network.samples, caught_by)
    for name, make in _HONEST.items():
        network, file = make()
        yield Case(name, _bytes(network.model), _bytes(file), network.samples, "")


def _bytes(model: ModelProto) -> bytes:
    return bytes(model.SerializeToString(deterministic=True))


Made = tuple[FloatNetwork, ModelProto]
_Make = Callable[[], Made]


def _qdq(per_channel: bool = True) -> Made:
    network = convolutional()
    return network, static(network, **_QDQ, per_channel=per_channel)


def _changed(made: Made, name: str, change: Callable[[np.ndarray], np.ndarray]) -> Made:
    return made[0], with_tensor(made[1], name, change)


def _scale_doubled() -> Made:
    return _changed(_qdq(), _WEIGHT.format("conv3") + "_scale", lambda scale: 2 * scale)


def _scales_of_other_channels() -> Made:
    return _changed(_qdq(), _WEIGHT.format("conv2") + "_scale", lambda scale: scale[::-1])


def _zero_point_off() -> Made:
    network = convolutional()
    file = static(network, quant_format=QuantFormat.QDQ, **_U8U8)
    return _changed((network, file), _WEIGHT.format("conv4") + "_zero_point", lambda point: point + 12)


def _bias_dropped() -> Made:
    network = convolutional()
    file = copy_of(static(network, **_QOPERATOR))
    node = node_of(file, "QLinearConv", _WEIGHT.format("conv3") + "_quantized")
    node.input.pop()
    bias = next(name for name in tensors_ending(file, "bias_quantized") if "conv3" in name)
    return network, without_tensors(file, [bias])


def _bias_in_wrong_scale() -> Made:
    made = _qdq()
    name = next(name for name in tensors_ending(made[1], "bias_quantized_scale") if "conv2" in name)
    return _changed(made, name, lambda scale: 16 * scale)


def _bias_rounded_away() -> Made:
    """As if in 8 bits: nearly all of its codes are 0."""
    network = convolutional()
    file = static(network, **_QOPERATOR)
    name = next(name for name in tensors_ending(file, "bias_quantized") if "conv4" in name)
    return _changed((network, file), name, lambda codes: np.where(np.abs(codes) < np.abs(codes).max(), 0, codes))


def _channel_zeroed() -> Made:
    def change(codes: np.ndarray) -> np.ndarray:
        codes[5] = 0
        return codes

    return _changed(_qdq(), _WEIGHT.format("conv2") + "_quantized", change)


def _weight_of_another_layer() -> Made:
    network, file = _qdq()
    for part in ("_quantized", "_scale"):
        other = tensor(file, _WEIGHT.format("conv4") + part)
        file = with_tensor(file, _WEIGHT.format("conv3") + part, lambda _, other=other: other)
    return network, file


def _codes_shuffled() -> Made:
    def change(codes: np.ndarray) -> np.ndarray:
        return in_order(codes, np.random.default_rng(0).permutation(codes.size))

    return _changed(_qdq(), "fc.weight_quantized", change)


def _kernel_transposed() -> Made:
    return _changed(_qdq(), _WEIGHT.format("conv3") + "_quantized", lambda codes: codes.swapaxes(2, 3))


def _outputs_exchanged() -> Made:
    network = two_heads()
    return network, exchanged(static(network, **_QDQ), "digit", "tripled")


def _outputs_reordered() -> Made:
    network = two_heads()
    return network, reordered(static(network, **_QOPERATOR))


def _output_renamed() -> Made:
    network, file = _qdq()
    return network, renamed_output(file, "logits", "scores")


def _float_copy_left() -> Made:
    network = perceptron()
    file = dynamic(network)
    for name in ("l2.weight", "l3.weight"):
        file = with_values(file, name, tensor(network.model, name))
    return network, file


def _tied_weight_twice() -> Made:
    network = perceptron(tied=True)
    file = dynamic(network)
    codes = "l2.weight_quantized"
    second = with_values(file, "l3.weight_quantized", tensor(file, codes))
    readers = [node for node in second.graph.node if codes in node.input]
    readers[1].input[list(readers[1].input).index(codes)] = "l3.weight_quantized"
    return network, second


def _stays_float() -> Made:
    """The largest layer falls back to float."""
    network = perceptron()
    return network, dynamic(network, nodes_to_exclude=["l2/MatMul", "l3/MatMul", "out/MatMul"])


def _nothing_quantized() -> Made:
    network = convolutional()
    return network, folded(network.model)


def _dynamic_scale_halved() -> Made:
    network = perceptron()
    return _changed((network, dynamic(network)), "l3.weight_scale", lambda scale: 0.5 * scale)


def _dynamic_bias_dropped() -> Made:
    network = perceptron()
    file = copy_of(dynamic(network))
    add = maker_of(file, "l2_sum")
    file.graph.node.remove(add)
    return network, without_tensors(reading(file, "l2_sum", "l2_product"), ["l2.bias"])


def _blocks() -> Made:
    network = perceptron()
    return network, in_blocks(network, block_size=32, is_symmetric=False)


def _block_scales_wrong() -> Made:
    return _changed(_blocks(), "l2.weight_scales", lambda scales: 1.5 * scales)


def _block_zero_points_off() -> Made:
    return _changed(_blocks(), "l3.weight_zero_points", lambda points: np.minimum(points + 0x33, 255))


def _nibbles_swapped() -> Made:
    return _changed(_blocks(), "l2.weight_Q4", lambda codes: (codes >> 4) | (codes << 4))


def _aimet(**options: object) -> Made:
    network = convolutional()
    return network, aimet(network, folded(network.model), **options)  # type: ignore[arg-type]


def _outliers_clipped() -> Made:
    return _aimet(spread=lambda name, largest: largest / 4 if name == "conv3.weight" else largest)


def _saturating() -> Made:
    return _aimet(spread=lambda name, largest: largest / 40 if name == "conv2.weight" else largest)


def _next_to_nothing() -> Made:
    """A layer whose range is so wide that nearly all codes are 0."""
    return _aimet(spread=lambda name, largest: 130 * largest if name == "conv4.weight" else largest)


def _folded_by_variance() -> Made:
    network = convolutional()
    return network, aimet(network, folded(network.model, lambda var, eps: var + eps))


def _normalization_dropped() -> Made:
    network = convolutional()
    file = copy_of(aimet(network, folded(network.model)))
    whole = aimet(network, folded(network.model, lambda var, _: np.ones_like(var)))
    for part in ("weight_q", "weight_scale", "bias_q", "bias_scale"):
        values = tensor(whole, f"conv3.{part}")
        file = with_tensor(file, f"conv3.{part}", lambda _, values=values: values)
    return network, file


def _stale_ranges() -> Made:
    return _aimet(ranges={"conv2_out": 0.08, "conv3_out": 0.08})


def _no_range() -> Made:
    return _changed(_aimet(), "conv3_out_scale", lambda scale: 0 * scale)


def _ours(bits: int = 4) -> Made:
    network = convolutional()
    return network, ours(network, IntegerFormat(bits))


def _our_scale_wrong() -> Made:
    return _changed(_ours(), "s02", lambda scales: 1.5 * scales)


def _our_codes_of_another_layer() -> Made:
    network, file = _ours()
    file = copy_of(file)
    codes = {t.name: t for t in file.graph.initializer}
    codes["a02"].raw_data = codes["a03"].raw_data
    return network, file


def _our_bias_missing() -> Made:
    return _changed(_ours(8), "conv2.weight_bias", lambda bias: 0 * bias)


def _our_float_fallback() -> Made:
    network = perceptron()
    file = ours(network, IntegerFormat(4))
    call = maker_of(file, "l2.weight")
    values = tensor(network.model, "l2.weight")
    parts = list(call.input)
    file.graph.node.remove(call)
    return network, with_values(without_tensors(file, parts), "l2.weight", values)


_MEASURED = frozenset({"aimet_stale_activation_ranges"})
_DEFECTS: dict[str, _Make] = {
    "ort_qdq_scale_doubled": _scale_doubled,
    "ort_qdq_scales_of_other_channels": _scales_of_other_channels,
    "ort_qdq_zero_point_off": _zero_point_off,
    "ort_qoperator_bias_dropped": _bias_dropped,
    "ort_qdq_bias_in_wrong_scale": _bias_in_wrong_scale,
    "ort_qoperator_bias_rounded_away": _bias_rounded_away,
    "ort_qdq_channel_zeroed": _channel_zeroed,
    "ort_qdq_weight_of_another_layer": _weight_of_another_layer,
    "ort_qdq_codes_shuffled": _codes_shuffled,
    "ort_qdq_kernel_transposed": _kernel_transposed,
    "ort_qdq_outputs_exchanged": _outputs_exchanged,
    "ort_qoperator_outputs_reordered": _outputs_reordered,
    "ort_qdq_output_renamed": _output_renamed,
    "ort_dynamic_float_copy_left": _float_copy_left,
    "ort_dynamic_tied_weight_twice": _tied_weight_twice,
    "ort_dynamic_stays_float": _stays_float,
    "ort_dynamic_scale_halved": _dynamic_scale_halved,
    "ort_dynamic_bias_dropped": _dynamic_bias_dropped,
    "nothing_quantized": _nothing_quantized,
    "ort_blocks_scales_wrong": _block_scales_wrong,
    "ort_blocks_zero_points_off": _block_zero_points_off,
    "ort_blocks_nibbles_swapped": _nibbles_swapped,
    "aimet_outliers_clipped": _outliers_clipped,
    "aimet_saturating": _saturating,
    "aimet_layer_next_to_nothing": _next_to_nothing,
    "aimet_folded_by_variance": _folded_by_variance,
    "aimet_normalization_dropped": _normalization_dropped,
    "aimet_stale_activation_ranges": _stale_ranges,
    "aimet_range_of_zero": _no_range,
    "ours_scale_wrong": _our_scale_wrong,
    "ours_codes_of_another_layer": _our_codes_of_another_layer,
    "ours_bias_missing": _our_bias_missing,
    "ours_float_fallback": _our_float_fallback,
}


def _statically(network: Callable[[], FloatNetwork], **options: object) -> _Make:
    return lambda: (network(), static(network(), **options))


def _dynamically(network: Callable[[], FloatNetwork], **options: object) -> _Make:
    return lambda: (network(), dynamic(network(), **options))


def _our_file(network: Callable[[], FloatNetwork], format_: object, **options: object) -> _Make:
    return lambda: (network(), ours(network(), format_, **options))  # type: ignore[arg-type]


def _hqq() -> Made:
    from onnxruntime.quantization.matmul_nbits_quantizer import HQQWeightOnlyQuantConfig

    network = perceptron()
    return network, in_blocks(network, algo_config=HQQWeightOnlyQuantConfig(block_size=32, bits=4))


def _equalized() -> Made:
    network = convolutional()
    return network, aimet(network, equalized(folded(network.model), _LAYERS))


def _in_blocks(network: Callable[[], FloatNetwork], **options: object) -> _Make:
    return lambda: (network(), in_blocks(network(), **options))


_BLOCKS = IntegerFormat(4, Granularity.BLOCK, True, 32)
_INT8 = {"weight_type": QuantType.QInt8, "activation_type": QuantType.QInt8}
_HONEST: dict[str, _Make] = {
    "ort_qdq_per_tensor": _statically(convolutional, **_QDQ),
    "ort_qdq_per_channel": _statically(convolutional, **_QDQ, per_channel=True),
    "ort_qdq_not_folded": _statically(convolutional, folds=False, **_QDQ, per_channel=True),
    "ort_qdq_s8s8": _statically(convolutional, **_INT8, quant_format=QuantFormat.QDQ),
    "ort_qdq_u8u8": _statically(two_heads, quant_format=QuantFormat.QDQ, **_U8U8),
    "ort_qdq_reduce_range": _statically(two_heads, **_QDQ, per_channel=True, reduce_range=True),
    "ort_qdq_4_bits": _statically(
        convolutional, quant_format=QuantFormat.QDQ, weight_type=QuantType.QInt4, per_channel=True
    ),
    "ort_qdq_unsigned_4_bits": _statically(
        perceptron, **(_QDQ | {"weight_type": QuantType.QUInt4}), per_channel=True
    ),
    "ort_qdq_16_bit_activations": _statically(convolutional, **(_QDQ | {"activation_type": QuantType.QUInt16})),
    "ort_qdq_percentile": _statically(convolutional, **_QDQ, calibrate_method=CalibrationMethod.Percentile),
    "ort_qdq_first_layer_excluded": _statically(convolutional, **_QDQ, nodes_to_exclude=["conv1", "fc"]),
    "ort_qdq_transformer": _statically(transformer, **_QDQ, per_channel=True),
    "ort_qdq_weights_as_floats": _statically(convolutional, **_QDQ, extra_options={"AddQDQPairToWeight": True}),
    "ort_qoperator_per_tensor": _statically(two_heads, **_QOPERATOR),
    "ort_qoperator_per_channel": _statically(convolutional, **_QOPERATOR, per_channel=True),
    "ort_qoperator_u8u8": _statically(
        perceptron, quant_format=QuantFormat.QOperator, **_U8U8
    ),
    "ort_dynamic": _dynamically(perceptron),
    "ort_dynamic_tied": _dynamically(lambda: perceptron(tied=True)),
    "ort_dynamic_reduce_range": _dynamically(perceptron, per_channel=True, reduce_range=True),
    "ort_dynamic_transformer": _dynamically(transformer, weight_type=QuantType.QUInt8),
    "ort_dynamic_convolutional": _dynamically(convolutional, weight_type=QuantType.QUInt8),
    "ort_blocks_symmetric": _in_blocks(perceptron, block_size=32, is_symmetric=True),
    "ort_blocks_asymmetric": _blocks,
    "ort_blocks_8_bits": _in_blocks(transformer, block_size=32, bits=8, is_symmetric=True),
    "ort_blocks_qdq": _in_blocks(perceptron, block_size=32, is_symmetric=True, quant_format=QuantFormat.QDQ),
    "ort_blocks_hqq": _hqq,
    "aimet_codes": _aimet,
    "aimet_per_tensor": lambda: _aimet(per_channel=False),
    "aimet_weights_as_floats": lambda: _aimet(stores_codes=False),
    "aimet_4_bits": lambda: _aimet(bits=4),
    "aimet_equalized": _equalized,
    "ours_8_bits": lambda: _ours(8),
    "ours_mixed_widths": _our_file(convolutional, lambda number: IntegerFormat(3 + number % 4)),
    "ours_opset_18": _our_file(convolutional, IntegerFormat(4), opset=18),
    "ours_transformer": _our_file(transformer, IntegerFormat(5)),
    "ours_blocks": _our_file(perceptron, _BLOCKS),
    "ours_codebooks": _our_file(convolutional, CodebookFormat(3)),
    "ours_codebooks_with_outliers": _our_file(perceptron, CodebookFormat(3, 45)),
    "ours_powers": _our_file(convolutional, PowerFormat(4)),
    "ours_halves": _our_file(convolutional, HalfFormat()),
    "ours_activations": _our_file(convolutional, IntegerFormat(8), activations=8),
    "ours_4_bit_weights_8_bit_activations": _our_file(convolutional, IntegerFormat(4), activations=8),
}  # fmt: skip
