"""Number formats, rounding, and the quantized ONNX file.

formats       what a number may be
storage       what each family of formats stores of a weight, and how that turns back into values
rounding      one weight rounded to its formats: ranges, nearest codes, GPTQ
plans         all weights of a plan rounded for each other
activations   ranges of activations, and the integer kernels that they lead to
export        the file that comes out: written, counted, read back
"""
