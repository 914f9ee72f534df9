#!/usr/bin/env bash
# Train on several processes: tools/dist_train.sh CONFIG GPUS [arguments of tools/train.py]
# Several machines: set NNODES, NODE_RANK, MASTER_ADDR and PORT alike on each (NODE_RANK from 0).
# Without a GPU the processes share the CPU (gloo).
set -euo pipefail

usage='usage: dist_train.sh CONFIG GPUS [arguments of train.py]'
if [[ $# -lt 2 || ! $2 =~ ^[1-9][0-9]*$ ]]; then
    echo "error: CONFIG and the number of GPUS are needed; $usage" >&2
    exit 2
fi
config=$1
gpus=$2
shift 2
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python}
export PYTHONPATH="$tools/..${PYTHONPATH:+:$PYTHONPATH}"

# Checked once here, so that a mistake is one line and not a report from every process.
"$python" "$tools/train.py" "$config" "$@" --launcher none --check
exec "$python" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$gpus" \
    "$tools/train.py" "$config" "$@" --launcher pytorch
