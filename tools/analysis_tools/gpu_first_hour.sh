#!/usr/bin/env bash
# The first hour on a GPU: tests, benchmarks and counters, in one report to send. See `gpu_first_hour.sh --help`.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: tools/analysis_tools/gpu_first_hour.sh [--dry-run] [--report FILE] [STEP...]

Runs all steps, or those named, one after the other; one that fails does not keep the next from running. What each
prints goes into one report, in Markdown, with the machine and the versions at its head. Please send it with an issue.
  --dry-run       list the steps and their commands, and run nothing; needs no GPU
  --report FILE   where the report is written (default: gpu_report.md)
Environment variables:
  PYTHON          the interpreter of an environment with mmvim, pytest and a PyTorch for the GPU (default: python)
  STEP_SECONDS    most seconds of a step (default: 1200)
Exit status: 0, or 1 if a step failed, 2 for wrong use, 3 if there is no GPU.
TEXT
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=${PYTHON:-python}
limit=${STEP_SECONDS:-1200}
report=gpu_report.md
dry=no
analysis=tools/analysis_tools

names=(doctor tests scan model counters launches backbones)
declare -A commands=( # of Python
  [doctor]="-m mmvim doctor"
  [tests]="-m pytest -q -m gpu -p no:cacheprovider tests"
  [scan]="$analysis/benchmark_scan.py --device cuda"
  [model]="$analysis/gpu_model.py"
  [counters]="$analysis/gpu_counters.py"
  [launches]="$analysis/benchmark_launches.py"
  [backbones]="$analysis/benchmark_backbone.py --device cuda"
)
declare -A about=(
  [doctor]='what is installed, and whether the backends compute the right thing'
  [tests]='the tests that need a GPU'
  [scan]='the scan against its peers and the limits of the GPU'
  [model]='what the model expects of the scans, to compare with'
  [counters]='counters of the kernels, expected values in brackets (Nsight Compute, if ncu is there)'
  [launches]='host time of a call, without the launch itself'
  [backbones]='whole backbones against DeiT'
)

wanted=()
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) usage; exit ;;
    --dry-run) dry=yes ;;
    --report)
      [ $# -gt 1 ] || { echo 'error: --report needs a file' >&2; exit 2; }
      report=$2
      shift ;;
    *)
      [[ $1 != -* && -v "commands[$1]" ]] || { echo "error: there is no step '$1'; there are: ${names[*]}" >&2; exit 2; }
      wanted+=("$1") ;;
  esac
  shift
done
[ ${#wanted[@]} -gt 0 ] || wanted=("${names[@]}")

if [ $dry = yes ]; then
  for name in "${wanted[@]}"; do
    printf '%s: %s\n    %s %s\n' "$name" "${about[$name]}" "$python" "${commands[$name]}"
  done
  exit
fi

case $report in /*) ;; *) report=$PWD/$report ;; esac
cd "$root"
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
probe='import torch; print("yes" if torch.cuda.is_available() else "no")'
found=$("$python" -c "$probe") || { echo "error: $python cannot import torch; set PYTHON" >&2; exit 2; }
if [ "$found" != yes ]; then
  echo 'error: no GPU: torch.cuda.is_available() is false; --dry-run lists what would run' >&2
  exit 3
fi

head_of_report() {
  echo '# mmvim on a GPU'
  echo
  printf -- '- date: %s\n' "$(date -u +%FT%TZ)"
  printf -- '- revision: %s\n' "$(git rev-parse --short HEAD 2>/dev/null || echo unknown)"
  "$python" -c '
import platform, torch, triton
p = torch.cuda.get_device_properties(0)
print(f"- GPU: {p.name}, {p.multi_processor_count} processors, compute capability {p.major}.{p.minor}, "
      f"{p.total_memory >> 30} GiB")
print(f"- Python {platform.python_version()}, PyTorch {torch.__version__}, CUDA {torch.version.cuda}, Triton {triton.__version__}")'
  printf -- '- driver and clocks: %s\n' \
    "$(nvidia-smi --query-gpu=driver_version,clocks.max.sm,clocks.max.mem --format=csv,noheader 2>/dev/null || echo unknown)"
}

head_of_report > "$report"
failed=()
for name in "${wanted[@]}"; do
  echo "--- $name: ${about[$name]}"
  start=$SECONDS
  output=$(mktemp)
  read -ra command <<< "${commands[$name]}"
  status=0
  timeout "$limit" "$python" "${command[@]}" > "$output" 2>&1 || status=$?
  [ $status -eq 0 ] || failed+=("$name")
  {
    printf '\n## %s\n\n%s.\n\n    %s %s\n\n' "$name" "${about[$name]^}" "$python" "${commands[$name]}"
    printf 'Status %s after %s s.\n\n```text\n' "$status" "$((SECONDS - start))"
    tail -c 60000 "$output"
    printf '```\n'
  } >> "$report"
  tail -n 3 "$output"
  rm -f "$output"
done

echo "--- the report: $report"
if [ ${#failed[@]} -gt 0 ]; then
  echo "failed: ${failed[*]}" >&2
  exit 1
fi
