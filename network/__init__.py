"""ONNX in: admission, normalisation and differentiable execution in torch."""

import os

# ONNX Runtime's wheels for Linux report names of graphs and texts of errors to their vendor, and keep a device id and a
# database of what is still to be sent among the user's files. They look at this once, when they are loaded: so here,
# before any module of ours that loads them.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
