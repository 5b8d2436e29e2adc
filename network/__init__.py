"""ONNX in: admission, normalisation and differentiable execution in torch."""
