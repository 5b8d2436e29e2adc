"""Samples, metrics, running an ONNX file, and the accuracy certificate."""
