#!/usr/bin/env bash
# Run the tests of the C++ ops on other builds of their library: with AddressSanitizer and UndefinedBehaviorSanitizer, for
# AVX2, and for any 64-bit x86. See `tools/check_native_scan.sh --help`.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: tools/check_native_scan.sh [BUILD...]

BUILD is sanitize, avx2 or portable; by default, all that this processor can run. Each takes two to four minutes, on the
tests of an ordinary run. The libraries are built in a temporary folder, which is removed afterwards. Environment variables:
  PYTHON   the interpreter of an environment with mmvim and pytest (default: python)
  CXX      the compiler (default: g++), with its AddressSanitizer library for the build 'sanitize'
TEXT
}

cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python}
[ $# -gt 0 ] || set -- sanitize avx2 portable
for build in "$@"; do
  case $build in
    -h | --help) usage; exit ;;
    sanitize | avx2 | portable) ;;
    *) echo "error: there is no build '$build'" >&2; usage >&2; exit 2 ;;
  esac
done

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export TORCH_EXTENSIONS_DIR=$folder PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}

check() { # compiler flags, then environment variables for the tests
  local flags=$1
  shift
  env MMVIM_NATIVE_FLAGS="$flags" "$@" "$python" -m pytest -q --durations=0 --durations-min=60 -p no:cacheprovider \
    tests/test_ops -m 'not full' -k native --ignore tests/test_ops/test_native_build.py
}

for build in "$@"; do
  echo "--- the native scan: $build"
  case $build in
    sanitize)
      library=$("${CXX:-g++}" -print-file-name=libasan.so)
      [ -e "$library" ] || { echo "error: ${CXX:-g++} has no AddressSanitizer ($library); install its libasan" >&2; exit 1; }
      # libstdc++ is loaded first, so that the sanitizer sees its exceptions. Leaks are not reported, because Python and
      # PyTorch leak on purpose; a wrong access or an undefined operation ends the run.
      library="$library $("${CXX:-g++}" -print-file-name=libstdc++.so)"
      check '-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all' \
        LD_PRELOAD="$library" ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 UBSAN_OPTIONS=print_stacktrace=1 ;;
    avx2)
      if ! grep -qw avx2 /proc/cpuinfo 2>/dev/null; then echo 'left out: this processor has no AVX2'; continue; fi
      check '-march=x86-64-v3' ;;
    portable)
      if [ "$(uname -m)" != x86_64 ]; then echo 'left out: this processor is not an x86; the ordinary build is portable'; continue; fi
      check '-march=x86-64' ;;
  esac
done
