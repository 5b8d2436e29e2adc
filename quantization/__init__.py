"""Number formats, rounding, and the quantized ONNX file.

formats       what a number may be
granularity   which elements of a weight share a scale
storage       what each family of formats stores of a weight, and how that turns back into values
rounding      one weight rounded to its formats: ranges, nearest codes, GPTQ
plans         all weights of a plan rounded for each other
activations   ranges of activations, and the integer kernels that they lead to
export        the file that comes out: written, counted, read back
inspection    a quantized file of anybody's making, read against its float network
"""

import network  # noqa: F401 - keeps ONNX Runtime, which modules here load, from reporting to its vendor
