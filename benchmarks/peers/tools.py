"""One other tool on one network: `python tools.py TOOL MODEL SAMPLES OUT`.

Runs in an interpreter that has the tool, and imports nothing of the project. SAMPLES is an `.npz` with the network's
one input and `labels`; the tool may use all of it. Writes the quantized file to OUT, and prints one line of JSON last:
the seconds of the call, without imports. Each tool is called as its documentation shows, with its own defaults but for
what its name says.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import version_converter

BATCH = 128
RANGE_SAMPLES = 512
# AIMET measures every candidate of every group of quantizers with so many
RANKING_SAMPLES = 256
MAX_DROP = 0.01
NNCF_FOUR_BIT_SHARE = 0.8
INT4_OPSET = 21


class Samples:
    """The samples in batches as ONNX Runtime feeds them, and the accuracy of a session on them."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as archive:
            (self.input,) = set(archive.files) - {"labels"}
            self.values, self.labels = archive[self.input], archive["labels"]

    def feeds(self, count: int | None = None) -> Iterator[dict[str, Any]]:
        values = self.values[:count]
        for start in range(0, len(values), BATCH):
            yield {self.input: values[start : start + BATCH]}

    def accuracy(self, session: Any, count: int | None = None) -> float:
        """`session`: of ONNX Runtime, with the logits as its first output."""
        classes = np.concatenate([session.run(None, feeds)[0].argmax(axis=1) for feeds in self.feeds(count)])
        return float((classes == self.labels[: len(classes)]).mean())


class _Reader:
    """The samples as a reader of ONNX Runtime's calibration."""

    def __init__(self, samples: Samples) -> None:
        self._feeds = samples.feeds(RANGE_SAMPLES)

    def get_next(self) -> dict[str, Any] | None:
        return next(self._feeds, None)


def onnxruntime_static(model: Path, samples: Samples, out: Path, weights: str = "QInt8") -> None:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    with _preprocessed(model) as prepared:
        quantize_static(
            prepared,
            str(out),
            _Reader(samples),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=getattr(QuantType, weights),
        )


def onnxruntime_static_4_bits(model: Path, samples: Samples, out: Path) -> None:
    onnxruntime_static(model, samples, out, weights="QInt4")


def onnxruntime_dynamic(model: Path, _: Samples, out: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _preprocessed(model) as prepared:
        # signed weights of convolutions have no kernel
        quantize_dynamic(prepared, str(out), weight_type=QuantType.QUInt8)


def onnxruntime_blocks(model: Path, _: Samples, out: Path) -> None:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(onnx.load(str(model)), bits=4, block_size=32, is_symmetric=True)
    quantizer.process()
    onnx.save(quantizer.model.model, str(out))


def nncf_static(model: Path, samples: Samples, out: Path) -> None:
    import nncf

    dataset = nncf.Dataset(list(samples.feeds(RANGE_SAMPLES)))
    onnx.save(nncf.quantize(onnx.load(str(model)), dataset, subset_size=RANGE_SAMPLES // BATCH), str(out))


def nncf_accuracy_control(model: Path, samples: Samples, out: Path) -> None:
    import nncf

    def validate(network: Any, feeds: Any) -> tuple[float, None]:
        session = onnxruntime.InferenceSession(network.SerializeToString(), providers=["CPUExecutionProvider"])
        classes = np.concatenate([session.run(None, part)[0].argmax(axis=1) for part in feeds])
        return float((classes == samples.labels).mean()), None

    quantized = nncf.quantize_with_accuracy_control(
        onnx.load(str(model)),
        calibration_dataset=nncf.Dataset(list(samples.feeds(RANGE_SAMPLES))),
        validation_dataset=nncf.Dataset(list(samples.feeds())),
        validation_fn=validate,
        max_drop=MAX_DROP,
        subset_size=RANGE_SAMPLES // BATCH,
    )
    onnx.save(quantized, str(out))


def nncf_weights_8_bits(model: Path, _: Samples, out: Path) -> None:
    import nncf

    onnx.save(nncf.compress_weights(onnx.load(str(model))), str(out))


def nncf_weights_mixed(model: Path, samples: Samples, out: Path) -> None:
    import nncf

    compressed = nncf.compress_weights(
        _with_opset(onnx.load(str(model)), INT4_OPSET),
        mode=nncf.CompressWeightsMode.INT4_SYM,
        ratio=NNCF_FOUR_BIT_SHARE,
        group_size=-1,
        dataset=nncf.Dataset(list(samples.feeds(RANGE_SAMPLES))),
        sensitivity_metric=nncf.SensitivityMetric.MAX_ACTIVATION_VARIANCE,
        subset_size=RANGE_SAMPLES // BATCH,
    )
    onnx.save(compressed, str(out))


def aimet_mixed(model: Path, samples: Samples, out: Path) -> None:
    """Automatic mixed precision of A16 W8, A8 W8 and A8 W4, then the file with codes as weights."""
    from aimet_onnx import QuantizationSimModel
    from aimet_onnx.common.defs import CallbackFunc, QuantizationDataType
    from aimet_onnx.common.quantsim_config.utils import get_path_for_per_channel_config
    from aimet_onnx.mixed_precision import choose_mixed_precision

    integer = QuantizationDataType.int
    candidates = [((a, integer), (w, integer)) for a, w in ((16, 8), (8, 8), (8, 4))]

    def calibrate(session: Any, _: Any = None) -> None:
        for feeds in samples.feeds(RANGE_SAMPLES):
            session.run(None, feeds)

    def score(session: Any, _: Any = None) -> float:
        return samples.accuracy(session, RANKING_SAMPLES)

    def measure(session: Any, _: Any = None) -> float:
        return samples.accuracy(session)

    network = onnx.load(str(model))
    simulated = QuantizationSimModel(
        network,
        param_type="int8",
        activation_type="int16",
        config_file=get_path_for_per_channel_config(),
        dummy_input=next(samples.feeds(1)),
        providers=["CPUExecutionProvider"],
    )
    simulated.compute_encodings(calibrate)
    with tempfile.TemporaryDirectory() as folder:
        choose_mixed_precision(
            simulated,
            candidates,
            CallbackFunc(score),
            CallbackFunc(measure),
            MAX_DROP,
            folder,
            True,
            CallbackFunc(calibrate),
            use_all_amp_candidates=True,
        )
    onnx.save(simulated.to_onnx_qdq(prequantize_constants=True), str(out))


@contextmanager
def _preprocessed(model: Path) -> Iterator[str]:
    """The file after ONNX Runtime's own pre-processing, which its quantizers ask for."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        prepared = str(Path(folder) / "prepared.onnx")
        quant_pre_process(str(model), prepared)
        yield prepared


def _with_opset(network: Any, opset: int) -> Any:
    (current,) = (entry.version for entry in network.opset_import if entry.domain in ("", "ai.onnx"))
    return network if current >= opset else version_converter.convert_version(network, opset)


TOOLS: dict[str, Callable[[Path, Samples, Path], None]] = {
    "onnxruntime_static": onnxruntime_static,
    "onnxruntime_static_4_bits": onnxruntime_static_4_bits,
    "onnxruntime_dynamic": onnxruntime_dynamic,
    "onnxruntime_blocks": onnxruntime_blocks,
    "nncf_static": nncf_static,
    "nncf_accuracy_control": nncf_accuracy_control,
    "nncf_weights_8_bits": nncf_weights_8_bits,
    "nncf_weights_mixed": nncf_weights_mixed,
    "aimet_mixed": aimet_mixed,
}
ACTIVATION_TOOLS = frozenset(
    {"onnxruntime_static", "onnxruntime_static_4_bits", "nncf_static", "nncf_accuracy_control", "aimet_mixed"}
)
"""Those that quantize activations too, and by that make files that run faster."""


def main() -> None:
    tool, model, samples, out = sys.argv[1], *map(Path, sys.argv[2:])
    __import__(tool.partition("_")[0].replace("aimet", "aimet_onnx"))
    started = time.perf_counter()
    TOOLS[tool](model, Samples(samples), out)
    print(json.dumps({"seconds": time.perf_counter() - started}))


if __name__ == "__main__":
    main()
