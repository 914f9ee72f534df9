#!/usr/bin/env bash
# Make the project's Python environment, or complete it. `tools/setup_env.sh --help` tells how.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: tools/setup_env.sh GOAL

GOAL is what the environment is for:
  demo   train and test: PyTorch, the OpenMMLab packages, mmvim
  lint   the same and the development tools
  test   the same and mmcv's compiled operators (about 13 minutes on two cores, once; pip keeps the result)

Steps that are done are not repeated, unless the versions in requirements/ change. Environment variables:
  STACK        onedl (default): the maintained OpenMMLab packages; openmmlab: the original ones
  VENV         where the environment is (default: .venv, with STACK=openmmlab .venv-openmmlab)
  PYTHON       the interpreter to build it with (default: python3, or a python3.11 to 3.13 where that is too old)
  KEEP_TORCH   0: install the pinned PyTorch even if PYTHON can import one of its own (default: keep that one)
  MAX_JOBS     compilers to run at the same time (default: one for each core; each takes about 1 GB of memory)
TEXT
}

cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$(pwd -P)
goal=${1:-}
case $goal in
  demo | lint | test) ;;
  -h | --help) usage; exit ;;
  *) usage >&2; exit 2 ;;
esac
STACK=${STACK:-onedl}
case $STACK in
  onedl) default_venv=.venv ;;
  openmmlab) default_venv=.venv-openmmlab ;;
  *) echo "error: STACK=$STACK is unknown; use STACK=onedl or STACK=openmmlab" >&2; exit 2 ;;
esac
VENV=${VENV:-$default_venv}
MAX_JOBS=${MAX_JOBS:-$(nproc 2>/dev/null || echo 2)}
py=$VENV/bin/python
state=$VENV/.setup
log=$state/log
export MAX_JOBS PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_PROGRESS_BAR=off PIP_USER=0
export PIP_ROOT_USER_ACTION=ignore

fail() { # message, remedy...
  printf '\nerror: %s\n' "$1" >&2
  shift
  [ $# -eq 0 ] || printf '  %s\n' "$@" >&2
  exit 1
}

# --- what there is ---------------------------------------------------------------------------------------------------

runs() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

pick_python() { # the interpreter to build the environment with
  local candidate
  if [ -n "${PYTHON:-}" ]; then
    runs "$PYTHON" || fail "PYTHON=$PYTHON is not a Python of version 3.11 or later." "Name another one, or leave PYTHON unset."
    echo "$PYTHON" && return
  fi
  for candidate in python3 python3.11 python3.12 python3.13; do
    if runs "$candidate"; then echo "$candidate" && return; fi
  done
  fail "Python 3.11 or later is needed; python3 is $(python3 -V 2>&1 | head -1)." \
    "On Debian or Ubuntu: sudo apt install python3 python3-venv (Debian 12, Ubuntu 24.04 or later)." \
    "Elsewhere: install Python 3.11 and run again with PYTHON=/path/to/python3.11."
}

torch_of() { # the PyTorch that an interpreter can import, if mmvim can use it
  "$1" - 2>/dev/null <<'CODE'
import torch
if tuple(int(n) for n in torch.__version__.split('.')[:2]) >= (2, 6):
    print(torch.__version__)
CODE
}

version_of() { # distribution -> version in the environment, or nothing
  "$py" -c 'import sys; from importlib.metadata import version; print(version(sys.argv[1]))' "$1" 2>/dev/null || true
}

has_ops() { "$py" -c 'import torch, mmcv._ext' 2>/dev/null; }

pin_of() { sed -n 's/^\([^ #]*==[^ ]*\).*/\1/p' "requirements/$STACK.txt" | grep -E "$1"; } # pattern -> name==version

only_mmcv() { awk '/^[^ ]/ { on = /mmcv/ } on' "requirements/$STACK.txt"; }   # with the sums that pip must find
all_but_mmcv() { awk '/^[^ ]/ { on = !/mmcv/ } on' "requirements/$STACK.txt"; }

# --- steps already done: a file for each, holding what it was done with ----------------------------------------------

key_of() { # step -> what its result depends on
  case $1 in
    venv) cat requirements/build.txt ;;
    torch) if [ "$kept_torch" ]; then echo "kept $kept_torch"; else cat requirements/torch.txt; fi ;;
    runtime | dev) cat "requirements/$1.txt" ;;
    packages) pin_of . | grep -v mmcv ;;
    mmcv) echo "$(pin_of mmcv) torch $(version_of torch) $mmcv_kind" ;;
    mmvim) echo "$root torch $(version_of torch)"; cat pyproject.toml setup.py mmvim/ops/native/*.{cpp,h} ;;
  esac
}

done_with() { [ -f "$state/$1" ] && [ "$(cat "$state/$1")" = "$(key_of "$1")" ]; }

is_done() {
  case $1 in
    # compiled operators serve every goal, so an environment for tests need not be touched for the demo
    mmcv) done_with mmcv || { [ "$mmcv_kind" = lite ] && mmcv_kind=ops done_with mmcv; } ;;
    mmvim) done_with mmvim && [ -e mmvim/.mim/model-index.yml ] ;;
    *) done_with "$1" ;;
  esac
}

# --- the steps -------------------------------------------------------------------------------------------------------

pip() { "$py" -m pip "$@"; }

make_venv() {
  if [ -z "$kept_torch" ]; then
    "$python" -m venv "$VENV"
    return
  fi
  "$python" -m venv --system-site-packages "$VENV"
  if [ -z "$(torch_of "$py")" ]; then # python is itself in a virtual environment, and that one is skipped
    "$python" -c 'import os, torch; print(os.path.dirname(os.path.dirname(torch.__file__)))' \
      >"$("$py" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/kept_torch.pth"
  fi
  [ "$(torch_of "$py")" ] || { echo "PyTorch $kept_torch of $python cannot be imported from $VENV"; return 1; }
}

step_venv() {
  [ -x "$py" ] || make_venv
  pip install --no-deps -r requirements/build.txt
}

step_torch() { if [ -z "$kept_torch" ]; then pip install -r requirements/torch.txt; fi; }
step_runtime() { pip install --no-deps -r requirements/runtime.txt; }
step_dev() { pip install --no-deps --no-build-isolation -r requirements/dev.txt; }
step_packages() { # mmcv has a step of its own
  all_but_mmcv >"$state/packages.txt"
  pip install --no-deps --no-build-isolation -r "$state/packages.txt"
}

cached_mmcv() { # wheels of the pinned mmcv that pip has built before; the compiled ones name a CPython version
  local pin name asked=$py
  pin=$(pin_of mmcv)
  name=$(tr - _ <<<"${pin%%==*}")
  [ -x "$py" ] || asked=$python
  "$asked" -m pip cache list --format=abspath "$name" 2>/dev/null | grep -F "/$name-${pin##*==}-" || true
}

needs_cpp20() { # as PyTorch does since 2.14
  grep -q 'C++20 or later' "$("$py" -c 'import os, torch; print(os.path.dirname(torch.__file__))')/include/ATen/ATen.h"
}

cpp20_compiler() { # the compiler with mmcv's own -std=c++17, which comes last, replaced; prints its path
  cat >"$state/c++20" <<TEXT
#!/bin/sh
for word; do
  shift
  case \$word in -std=c++1?) word=-std=c++20 ;; esac
  set -- "\$@" "\$word"
done
exec ${CXX:-c++} "\$@"
TEXT
  chmod +x "$state/c++20"
  echo "$(cd "$state" && pwd -P)/c++20"
}

step_mmcv() {
  local pin wheel stale
  pin=$(pin_of mmcv)
  if [ "$(version_of "${pin%%==*}")" = "${pin##*==}" ] && has_ops; then return; fi
  for wheel in $(cached_mmcv | grep -- -cp); do
    pip install --no-deps --force-reinstall "$wheel" || continue
    if has_ops; then return; fi
    echo "$wheel was built for another PyTorch"
  done
  only_mmcv >"$state/mmcv.txt"
  if [ "$mmcv_kind" = lite ]; then
    # pip builds in isolation, where there is no PyTorch, and mmcv leaves its operators out. Not with the cache: pip would
    # keep this wheel and serve it later where the compiled one is wanted.
    echo 'setuptools<81' >"$state/constraints.txt"
    PIP_CONSTRAINT=$state/constraints.txt PIP_BUILD_CONSTRAINT=$state/constraints.txt \
      pip install --use-pep517 --no-cache-dir --no-deps --force-reinstall -r "$state/mmcv.txt"
    return
  fi
  stale=$(cached_mmcv)
  if [ "$stale" ]; then # these have been tried above, or have no operators; pip would serve them again instead of building
    while read -r wheel; do pip cache remove "$(basename "$wheel")"; done <<<"$stale"
  fi
  if needs_cpp20; then export CXX=$(cpp20_compiler); fi
  # -v: the log then has ninja's count of files
  MMCV_WITH_OPS=1 pip install -v --no-build-isolation --no-deps --force-reinstall -r "$state/mmcv.txt"
  has_ops || { echo "mmcv._ext is missing from the mmcv just built:"; "$py" -c 'import torch, mmcv._ext'; }
}

step_mmvim() {
  pip install --use-pep517 --no-build-isolation --no-deps -e .
  "$py" - <<'CODE'
import importlib
import torch
for name in ('mmengine', 'mmcv', 'mmseg', 'mmdet', 'mmvim'):
    module = importlib.import_module(name)
    print(name, module.__version__, module.__file__)
CODE
}

title_of() {
  case $1 in
    venv)
      if [ -x "$py" ]; then echo "installing build tools"; else
        echo "making $VENV with $python$([ -z "$kept_torch" ] || echo ", keeping its PyTorch $kept_torch")"
      fi ;;
    torch) if [ "$kept_torch" ]; then echo "PyTorch $kept_torch is kept"; else echo "installing PyTorch"; fi ;;
    runtime) echo "installing libraries" ;;
    dev) echo "installing development tools" ;;
    packages) echo "installing the OpenMMLab packages ($STACK)" ;;
    mmcv)
      if [ "$mmcv_kind" = lite ]; then
        echo "installing mmcv (its compiled operators are not needed)"
      elif [ "$(cached_mmcv | grep -- -cp)" ]; then
        echo "installing mmcv with the compiled operators that pip kept"
      else
        echo "compiling mmcv's operators: about 13 minutes on two cores, once"
      fi ;;
    mmvim) echo "installing mmvim, and compiling its scan if there is a compiler" ;;
  esac
}

# --- running a step: its time while it runs, the end of its log if it fails ------------------------------------------

check_compiler() { # before minutes are spent
  if [ "$mmcv_kind" = lite ] || [ "$(cached_mmcv | grep -- -cp)" ]; then return; fi
  command -v "${CXX:-c++}" >/dev/null || fail "mmcv's operators need a C++ compiler, and there is no ${CXX:-c++}." \
    "On Debian or Ubuntu: sudo apt install build-essential"
  "$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' ||
    fail "mmcv's operators need Python's header files, and $python has none." "On Debian or Ubuntu: sudo apt install python3-dev"
}

remedy() { # what the log of a failed step points to
  if grep -qE 'ensurepip is not|No module named .?(venv|ensurepip)' "$log"; then
    echo "Python's venv module is missing. On Debian or Ubuntu: sudo apt install python3-venv"
  elif grep -qE 'No space left on device|Disk quota exceeded' "$log"; then
    echo "The disk is full: the environment takes 2 GB, with a CUDA build of PyTorch 8 GB."
  elif grep -qE 'Killed|Cannot allocate memory|out of memory' "$log"; then
    echo "Memory ran out. Compile with fewer compilers at a time: MAX_JOBS=1 make test"
  elif grep -qE 'Python.h: No such file' "$log"; then
    echo "Python's header files are missing. On Debian or Ubuntu: sudo apt install python3-dev"
  elif grep -qE "command '.*(gcc|g\+\+|cc)' failed|unable to execute '.*(gcc|g\+\+|cc)'" "$log"; then
    echo "The C++ compiler is missing or failed (see above). On Debian or Ubuntu: sudo apt install build-essential"
  elif grep -qE 'Temporary failure|Failed to establish|Network is unreachable|Read timed out|ConnectionError|SSLError|ProxyError' "$log"; then
    echo "The package index could not be reached. Check the network, or pip's settings: pip config list"
  elif grep -qE 'No matching distribution|Could not find a version' "$log"; then
    echo "A pinned version is not on the package index for this Python or platform. Use Python 3.11 to 3.13; check pip config list."
  else
    echo "The whole log is in $log."
  fi
}

clock() { printf '%d:%02d' $(($1 / 60)) $(($1 % 60)); }
built_files() { tail -c 20000 "$log" | grep -oE '\[[0-9]+/[0-9]+\]' | tail -1 || true; }
child=
stop() {
  [ -z "$child" ] || kill -TERM -- "-$child" 2>/dev/null || true
  printf '\nstopped; run the same command again: finished steps are kept.\n' >&2
  exit 130
}
trap stop INT TERM HUP

run_step() { # number, step
  local title="[$1/$count] $(title_of "$2")" start=$SECONDS told=0 seconds
  : >"$log"
  set -m # a process group of its own, so that stopping reaches the compilers too
  (set -e; "step_$2") >>"$log" 2>&1 </dev/null 9<&- &
  child=$!
  set +m
  [ -t 1 ] || echo "$title"
  while kill -0 "$child" 2>/dev/null; do
    seconds=$((SECONDS - start))
    if [ -t 1 ]; then
      printf '\r\033[K%s  %s %s' "$title" "$(clock $seconds)" "$(built_files)"
    elif [ $((seconds - told)) -ge 60 ]; then
      told=$seconds
      echo "      $(clock $seconds) $(built_files)"
    fi
    sleep 0.3
  done
  if wait "$child"; then
    child=
    if [ -t 1 ]; then printf '\r\033[K%s  %s\n' "$title" "$(clock $((SECONDS - start)))"; fi
    key_of "$2" >"$state/$2"
  else
    child=
    printf '\n--- the end of %s\n' "$log" >&2
    tail -n 25 "$log" >&2
    fail "step $1 of $count failed: $(title_of "$2")" "$(remedy)" "Then run the same command again: finished steps are kept."
  fi
}

# --- what is to be done, and doing it --------------------------------------------------------------------------------

[ -d requirements ] || fail "there is no requirements/ in $root." "This script sets up a clone of the repository: run it there."
if command -v flock >/dev/null; then
  exec 9<requirements
  flock -n 9 || { echo "waiting for another set-up to end"; flock 9; }
fi
kept_torch=
if [ -e "$VENV" ] && ! [ -f "$state/made_here" ]; then # somebody's own environment: used as it is, never removed
  runs "$py" || fail "$VENV exists, was not made by this script, and holds no Python of version 3.11 or later." \
    "Move it away, or choose another folder: VENV=.venv-mmvim make $goal"
  python=$py
  mkdir -p "$state"
  [ -f "$state/kept" ] || torch_of "$py" >"$state/kept" || true
elif runs "$py" && [ -f "$state/venv" ]; then
  python=$py
else
  python=$(pick_python)
  if [ -e "$VENV" ]; then rm -rf "$VENV"; fi # made here, and interrupted or its interpreter gone
  mkdir -p "$state" && touch "$state/made_here"
  if [ "${KEEP_TORCH:-1}" != 0 ]; then torch_of "$python" >"$state/kept" || true; fi
fi
[ ! -f "$state/kept" ] || kept_torch=$(cat "$state/kept")
[ ! -f "$state/stack" ] || [ "$(cat "$state/stack")" = "$STACK" ] ||
  fail "$VENV holds STACK=$(cat "$state/stack"): the two families install the same modules." "Choose another folder: VENV=.venv-$STACK"
echo "$STACK" >"$state/stack"

# the original MMSegmentation imports mmcv's operators at once, so there the demo needs them too
mmcv_kind=ops
if [ "$goal" != test ] && [ "$STACK" = onedl ]; then mmcv_kind=lite; fi

steps=(venv torch runtime packages mmcv mmvim)
[ "$goal" = demo ] || steps+=(dev)
todo=()
for step in "${steps[@]}"; do
  case " ${todo[*]-} $step " in *" torch "*" mmcv ") todo+=(mmcv) && continue ;; esac # another PyTorch, other operators
  is_done "$step" || todo+=("$step")
done
count=${#todo[@]}
if [ "$count" -gt 0 ]; then
  echo "Setting up $VENV: $count of ${#steps[@]} steps to do."
  case " ${todo[*]} " in *" mmcv "*) check_compiler ;; esac
  number=0
  for step in "${todo[@]}"; do
    run_step $((number += 1)) "$step"
  done
  echo "$VENV is ready after $(clock $SECONDS): PyTorch $(version_of torch), $(pin_of mmengine), $(pin_of mmcv)."
fi
