#!/usr/bin/env bash
# The main job by hand, against a running service (`bitbudget serve`):
#
#     examples/curl.sh out/demo/digits.onnx out/demo/digits.npz
#
set -euo pipefail
model=$1
data=$2
server=${BITBUDGET_SERVER:-http://127.0.0.1:8000}
field() { python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }

# 1. Model, data and budget in one call. `Idempotency-Key` makes a repeated call give the same job.
job=$(curl --fail-with-body --silent --show-error "$server/v1/jobs" \
    --header "Idempotency-Key: $(sha256sum "$model" "$data" | sha256sum | cut -c1-32)" \
    --form "model=@$model" \
    --form "dataset=@$data" \
    --form 'request={"budget": {"metric": "top1", "max_drop": 0.01}}' | field id)
echo "job $job"

# 2. Poll.
while true; do
    status=$(curl --fail-with-body --silent --show-error "$server/v1/jobs/$job")
    state=$(field state <<<"$status")
    echo "$state: $(field stage <<<"$status"), progress $(field progress <<<"$status")"
    case $state in queued | running) sleep 2 ;; *) break ;; esac
done
[ "$state" = succeeded ] || { echo "$status"; exit 1; }

# 3. The plan as a table, and the quantized network.
curl --fail-with-body --silent --show-error "$server/v1/jobs/$job/plan?format=csv"
curl --fail-with-body --silent --show-error --output model.onnx "$server/v1/jobs/$job/model.onnx"
ls -l "$model" model.onnx

# 4. A second question on the same analysis costs little.
curl --fail-with-body --silent --show-error "$server/v1/jobs/$job/replan" \
    --header 'Content-Type: application/json' \
    --data '{"budget": {"metric": "top1", "max_drop": 0.02}}'
