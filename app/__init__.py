"""HTTP, command line and persistence; imports neither torch nor onnx nor onnxruntime."""
