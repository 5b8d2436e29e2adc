"""Metrics: how well the quantized network does compared with the float network, sample by sample.

| metric    | float value | quantized value | drop (larger is worse) | a relative drop is divided by |
|-----------|-------------|-----------------|------------------------|-------------------------------|
| top1      | accuracy    | accuracy        | float - quantized      | the float accuracy            |
| agreement | 1           | same class      | 1 - quantized          | 1                             |
| kl        | 0           | mean KL, nats   | quantized              | mean entropy of float, nats   |
| cosine    | 1           | mean cosine     | 1 - quantized          | 1                             |
| explained | 1           | share explained | 1 - quantized          | 1                             |
| mse, with targets | error | error           | quantized - float      | the float error               |
| mse       | 0           | mean square error | quantized            | mean square of float outputs  |
| mae       | as mse, of absolute errors and sizes                                                      |
| r2        | R²          | R²              | float - quantized      | the float R²                  |
| sqnr_db   | 100, or dB to targets | dB    | float - quantized      | the float value               |
| rank_correlation | 1, or rho with targets | rho | float - quantized | the float value               |
| recall_at_k | 1, or recall by labels | recall | float - quantized  | the float value               |
| detection_f1 | 1, or F1 by boxes | F1     | float - quantized      | the float value               |
| detection_map | 1, or mean AP by boxes | AP | float - quantized    | the float value               |

Every value is a mean over samples of per-sample numbers, or a function of weighted samples, so that differences are
paired and intervals are known.
"""
