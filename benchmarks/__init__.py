"""Measurements beside the tools that a user would pick instead; they print tables and assert nothing about time."""

import network  # noqa: F401 - keeps ONNX Runtime, which modules here load, from reporting to its vendor
