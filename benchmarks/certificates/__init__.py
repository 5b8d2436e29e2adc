"""What a certificate promises, tried on files that break the promise and on files that keep it.

| file | holds |
|---|---|
| `float_networks` | small networks, trained on scikit-learn's digits in seconds |
| `honest_files` | how tools quantize them: ONNX Runtime's, AIMET's way to write QDQ, and ours |
| `tampering` | hands that change tensors of a file |
| `defects` | the list: files with planted defects, and honest ones |
"""
