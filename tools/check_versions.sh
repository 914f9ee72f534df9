#!/usr/bin/env bash
# Run parts of the test suite with other versions of Python, PyTorch and the OpenMMLab packages, and write the table of them.
# See `tools/check_versions.sh --help`.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: tools/check_versions.sh [--list | --table | ROW...]

ROW is a combination of --list; by default all that have no result of these sources. Each gets a copy of HEAD and an environment
of its own, made by tools/setup_env.sh. Stopped at any moment it goes on where it was: finished steps of the set-up, finished
folders of tests and finished rows are kept. A row's result is written to tests/versions/ROW.txt, which is committed;
--table, which also ends each run, writes docs/versions.md from these files. Environment variables:
  VERSIONS_DIR   where copies, environments and logs are (default: work_dirs/versions; about 6 GB a row with a CUDA PyTorch)
  PYTHON_3_11, PYTHON_3_12, PYTHON_3_13   the interpreters (default: python3.11 ..., or those of pyenv)
  PYTEST_ARGS    more words for pytest, such as "-n 2 --dist loadfile"
TEXT
}

cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$(pwd -P)
work=${VERSIONS_DIR:-$root/work_dirs/versions}
results=tests/versions
table=docs/versions.md

# Name, Python, PyTorch, family, what is installed, which tests. `pinned` is requirements/torch.txt; `lowest` is what pyproject.toml
# still allows; `newest` is what pip finds. ops: mmcv with its operators; lite: without; seg: lite and no MMDetection; alone: lite
# and neither MMSegmentation nor MMDetection nor MMPreTrain. all: an ordinary run; fast: make test-fast; models: backbones alone.
rows() {
  cat <<'ROWS'
py311-torch213-onedl      3.11 2.13.0 onedl     ops   all
py311-torch213-openmmlab  3.11 2.13.0 openmmlab ops   all
py311-torch214-onedl      3.11 2.14.1 onedl     ops   all
py311-torch214-openmmlab  3.11 2.14.1 openmmlab ops   all
py312-torch213-onedl      3.12 2.13.0 onedl     lite  fast
py313-torch213-onedl      3.13 2.13.0 onedl     lite  fast
py311-lowest-onedl        3.11 2.6.0  onedl     lite  fast
py311-newest-onedl        3.11 newest onedl     lite  fast
py311-torch213-seg        3.11 2.13.0 onedl     seg   fast
py311-torch213-alone      3.11 2.13.0 onedl     alone models
ROWS
}

sources() { # what a result is of: the files that are tested and those that test them
  git ls-tree -r HEAD | grep -vE "\s($results/|docs/|.*\.md$)" | git hash-object --stdin | cut -c1-12
}

fail() { printf 'error: %s\n' "$1" >&2; exit 1; }
value() { sed -n "s/^$2=//p" "$results/$1.txt" 2>/dev/null || true; } # row, key -> what its result says

interpreter() { # version -> path
  local name=PYTHON_${1/./_} found
  found=${!name:-$(command -v "python$1" || true)}
  # a shim of pyenv finds only the versions that are switched on
  if ! "$found" -c '' 2>/dev/null; then found=$(ls -d "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$1".*/bin/python 2>/dev/null | tail -1); fi
  [ -n "$found" ] || fail "there is no Python $1; set $name"
  echo "$found"
}

folders() { # part -> what pytest is called with, a line a call
  case $1 in
    models) echo tests/test_models; echo 'tests/test_packaging.py -k without' ;;
    *) for path in tests/test_*; do if [[ $path == *.py ]] || compgen -G "$path/test_*.py" >/dev/null; then echo "$path"; fi; done ;;
  esac
}

# An environment in $work/ROW/venv, without what the row does without: row python torch family what. Each step has its own
# `|| return`, for bash's -e does not hold in a function whose status is looked at.
set_up() {
  local here=$work/$1 goal=test python
  python=$(interpreter "$2") || return
  case $5 in ops) ;; *) goal=lint ;; esac
  if ! [ -x "$here/venv/bin/python" ]; then "$python" -m venv "$here/venv" || return; fi
  if ! "$here/venv/bin/python" -c 'import torch' 2>/dev/null; then
    # the pinned PyTorch has no Triton of its own, as those for GPUs have
    if grep -qx "torch==$3" "$here/tree/requirements/torch.txt"; then
      "$here/venv/bin/python" -m pip install -r "$here/tree/requirements/torch.txt" || return
    else
      "$here/venv/bin/python" -m pip install "torch$([ "$3" = newest ] || echo "==$3")" || return
    fi
  fi
  ( # pip's cache may hold an mmcv with operators
    if [ "$goal" = lint ]; then export PIP_NO_CACHE_DIR=1; fi
    cd "$here/tree" && VENV=$here/venv STACK=$4 tools/setup_env.sh "$goal"
  ) || return
  case $5 in
    seg) "$here/venv/bin/python" -m pip uninstall -y onedl-mmdetection mmdet ;;
    alone) "$here/venv/bin/python" -m pip uninstall -y onedl-mmdetection mmdet onedl-mmsegmentation mmsegmentation onedl-mmpretrain ;;
  esac
}

run_tests() { # row part: one call of pytest a folder, each with a log; those that have one are left out
  local here=$work/$1 marks='not full' words name status
  [ "$2" = all ] || marks='not slow and not full'
  while read -r -u 3 words; do
    name=$(tr -c 'a-z0-9_\n' - <<<"${words#tests/}")
    if [ -f "$here/logs/$name.log" ]; then continue; fi
    status=0
    # shellcheck disable=SC2086  (several words)
    (cd "$here/tree" && OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} PATH=$here/venv/bin:$PATH \
      "$here/venv/bin/python" -m pytest -q -m "$marks" -p no:cacheprovider ${PYTEST_ARGS:-} $words) \
      >"$here/logs/$name.part" 2>&1 </dev/null || status=$?
    if [ $status -gt 5 ] || [ $status = 2 ]; then fail "row $1: pytest ended with $status on $words; see $here/logs/$name.part"; fi
    [ $status = 5 ] || [ "$(sum_up "$here/logs/$name.part")" ] || fail "row $1: pytest has not run on $words; see $here/logs/$name.part"
    mv "$here/logs/$name.part" "$here/logs/$name.log"
    echo "  $1: $words: $(sum_up "$here/logs/$name.log")"
  done 3< <(cd "$here/tree" && folders "$2")
}

sum_up() { # log -> pytest's last line about it, which what libraries print at their end may follow
  grep -E '^(=+ )?[0-9]+ (passed|failed|skipped|errors?|deselected|xfailed|warnings?)\b.* in [0-9.]+s' "$1" | tail -1
}

sum() { # row, word of these lines -> their sum over the row's logs
  local log
  for log in "$work/$1"/logs/*.log; do sum_up "$log"; done | grep -oE "[0-9]+ $2" | awk '{ n += $1 } END { print n + 0 }'
}

run_row() { # row python torch family what part
  local here=$work/$1 started=$SECONDS before
  before=$(cat "$here/sources" 2>/dev/null || true)
  echo "$1: Python $2, PyTorch $3, $4 ($5), $6"
  if [ "$before" != "$(sources)" ]; then # the environment stays; setup_env.sh sees what has changed
    rm -rf "$here/tree" "$here/logs"
    mkdir -p "$here/tree" "$here/logs"
    git archive HEAD | tar -x -C "$here/tree"
    git rev-parse --short=12 HEAD >"$here/commit"
    sources >"$here/sources"
  fi
  set_up "$@" >"$here/setup.log" 2>&1 || fail "row $1: the set-up failed; see $here/setup.log"
  run_tests "$1" "$6"
  {
    echo "commit=$(cat "$here/commit")" # of the copy: HEAD may have moved while the tests ran
    echo "sources=$(cat "$here/sources")"
    echo "date=$(date -u +%F)"
    "$here/venv/bin/python" - <<'CODE'
import platform
from importlib import import_module
print(f'python={platform.python_version()}')
for name in ('torch', 'mmengine', 'mmcv', 'mmseg', 'mmdet'):
    try:
        print(f'{name}={import_module(name).__version__}')
    except ImportError:
        print(f'{name}=none')
CODE
    for word in passed failed error skipped; do echo "$word=$(sum "$1" $word)"; done
    echo "minutes=$(((SECONDS - started) / 60))"
    grep -hE '^(FAILED|ERROR) ' "$here"/logs/*.log | sed "s#$here/tree#the copy#g" | cut -c1-200 || true
  } >"$results/$1.txt"
}

write_table() {
  cat <<'TEXT'
# Versions

Which versions the tests have been run with, by `tools/check_versions.sh`, which writes this page from `tests/versions/`. *all* is
`make test`, *fast* `make test-fast`, *models* the tests of the backbones. mmcv *ops* has its compiled operators, *lite* none;
*seg* is lite without MMDetection, *alone* lite without MMSegmentation, MMDetection and MMPreTrain. Python 3.10 is not supported
(`requires-python`): the pinned numpy and scipy have no wheels for it. A row that has not been run says so; the file of one that
has names each test that failed. Where the project is hosted all rows run once a week.

On the lowest PyTorch, 2.6, models train, test and predict. Its Triton (3.2) is too old for the kernels, so that GPUs take plain
PyTorch; programs of `torch.compile` and `torch.export` are not made as they should be, and FSDP2 has no CPUs: that is what fails
there. For GPUs take 2.7 or newer.

| Python | PyTorch | packages | mmcv | tests | passed | failed | skipped | commit, date |
|-|-|-|-|-|-|-|-|-|
TEXT
  local row python torch family what part
  while read -r row python torch family what part; do
    if [ -f "$results/$row.txt" ]; then
      echo "| $(value "$row" python) | $(value "$row" torch) | $family | $what | $part | $(value "$row" passed) |" \
        "$(($(value "$row" failed) + $(value "$row" error))) | $(value "$row" skipped) |" \
        "$(value "$row" commit), $(value "$row" date) |"
    else
      echo "| $python | $torch | $family | $what | $part | not run | | | |"
    fi
  done < <(rows)
}

case ${1:-} in
  -h | --help) usage; exit ;;
  --list) rows; exit ;;
  --table) write_table >"$table"; exit ;;
  -*) usage >&2; exit 2 ;;
esac
for name in "$@"; do
  rows | grep -q "^$name " || fail "there is no row '$name'; see tools/check_versions.sh --list"
done
[ -z "$(git status --porcelain -uno)" ] || echo 'warning: changes that are not committed are not in the copies' >&2
mkdir -p "$work" "$results"
while read -r -u 4 row rest; do
  if [ $# -gt 0 ] && [[ " $* " != *" $row "* ]]; then continue; fi
  if [ "$(value "$row" sources)" = "$(sources)" ]; then echo "$row: done"; continue; fi
  # shellcheck disable=SC2086
  run_row "$row" $rest
  write_table >"$table"
done 4< <(rows)
write_table >"$table"
