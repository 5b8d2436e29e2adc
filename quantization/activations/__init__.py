"""Quantized activations: ranges, and the integer kernels that they lead to."""
