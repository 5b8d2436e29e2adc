"""Number formats, ranges, rounding and packing, and the quantized ONNX file."""
