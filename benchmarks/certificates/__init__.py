"""Whether certificates can be trusted: tried on networks of all kinds, on files that break the promise, by coverage.

| file | holds |
|---|---|
| `networks`, `zoo/` | trained networks of many kinds, with an independent check of each (`entry`) |
| `kept_word`, `rule` | whole jobs: is the budget kept on samples that no job saw? |
| `coverage`, `twins`, `losses` | whether intervals hold the true drop |
| `defects`, `tampering` | files with planted defects, and honest ones |
| `float_networks`, `honest_files` | small networks, and how tools quantize them: ONNX Runtime's, AIMET's layout, ours |
| `inspection_alone` | what is found without running anything |
"""
