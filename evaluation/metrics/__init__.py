"""Metrics: how well the quantized network does compared with the float network, sample by sample.

| metric     | float value           | quantized value       | drop (larger is worse) | a relative drop is divided by |
|------------|-----------------------|-----------------------|------------------------|-------------------------------|
| top1       | accuracy              | accuracy              | float - quantized      | the float accuracy            |
| top5       | label in the top k    | label in the top k    | float - quantized      | the float value               |
| accuracy   | positions right       | positions right       | float - quantized      | the float accuracy            |
| agreement  | 1                     | same class            | 1 - quantized          | 1                             |
| kl         | 0                     | mean KL, nats         | quantized              | mean entropy of float, nats   |
| miou       | mean IoU of classes   | mean IoU of classes   | float - quantized      | the float value               |
| next_token | positions right       | positions right       | float - quantized      | the float accuracy            |
| perplexity | exp(mean nll)         | exp(mean nll)         | quantized - float      | the float perplexity          |
| flips      | accuracy at threshold | accuracy at threshold | float - quantized      | the float accuracy            |
| auc        | area under the ROC    | area under the ROC    | float - quantized      | the float area                |
| ctc        | label error rate      | label error rate      | quantized - float      | the float rate                |
| same       | 1                     | equal elements        | 1 - quantized          | 1                             |
| cosine     | 1                     | mean cosine           | 1 - quantized          | 1                             |
| explained  | 1                     | share explained       | 1 - quantized          | 1                             |
| mse        | 0                     | mean square error     | quantized              | mean square of float outputs  |
| mae        | 0                     | mean absolute error   | quantized              | mean size of float outputs    |
| r2         | R² against targets    | R² against targets    | float - quantized      | the float R²                  |
| sqnr_db    | 100                   | signal to noise, dB   | 100 - quantized        | 100                           |
| rank_correlation | 1               | rho                   | 1 - quantized          | 1                             |
| recall_at_k | 1, or by labels      | neighbours found      | float - quantized      | the float value               |
| detection_f1 | 1, or by boxes      | F1                    | float - quantized      | the float value               |
| detection_map | 1, or by boxes     | mean AP               | float - quantized      | the float value               |

With targets mse, mae, sqnr_db and rank_correlation are those of both networks against the targets.

Without labels the float network's own answers are right: top5, accuracy, miou, next_token and auc are 1 for the float
network, perplexity is exp(mean KL) and 1, flips and ctc are 0 and their relative drop is divided by 1.

Every value is a mean over samples of per-sample numbers, or a function of weighted samples, so that differences are
paired and intervals are known.
"""
