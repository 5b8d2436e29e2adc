"""Samples, metrics, running an ONNX file, and the accuracy certificate."""

import network  # noqa: F401 - keeps ONNX Runtime, which modules here load, from reporting to its vendor
