"""Metrics: how well the quantized network does compared with the float network, sample by sample.

| metric    | float value | quantized value | drop (larger is worse) | a relative drop is divided by |
|-----------|-------------|-----------------|------------------------|-------------------------------|
| top1      | accuracy    | accuracy        | float - quantized      | the float accuracy            |
| agreement | 1           | same class      | 1 - quantized          | 1                             |
| kl        | 0           | mean KL, nats   | quantized              | mean entropy of float, nats   |
| cosine    | 1           | mean cosine     | 1 - quantized          | 1                             |
| explained | 1           | share explained | 1 - quantized          | 1                             |

Every value is a mean over samples of per-sample numbers, or a function of weighted samples, so that differences are
paired and intervals are known.
"""
