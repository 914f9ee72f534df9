#!/usr/bin/env bash
# Run the tests of the C++ ops on other builds of their library: with AddressSanitizer and UndefinedBehaviorSanitizer, with
# ThreadSanitizer, for AVX2, and for any 64-bit x86. See `tools/check_native_scan.sh --help`.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: tools/check_native_scan.sh [BUILD...]

BUILD is sanitize, threads, avx2 or portable; by default, all that this processor can run. Each takes two to four minutes, on
the tests of an ordinary run. The libraries are built in a temporary folder, which is removed afterwards. Environment variables:
  PYTHON   the interpreter of an environment with mmvim and pytest (default: python)
  CXX      the compiler (default: g++), with its AddressSanitizer library for the build 'sanitize', its ThreadSanitizer
           library for 'threads'
  TESTS    the tests, a word each (default: all that name the library, of tests/test_ops)
TEXT
}

cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python}
[ $# -gt 0 ] || set -- sanitize threads avx2 portable
for build in "$@"; do
  case $build in
    -h | --help) usage; exit ;;
    sanitize | threads | avx2 | portable) ;;
    *) echo "error: there is no build '$build'" >&2; usage >&2; exit 2 ;;
  esac
done

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export TORCH_EXTENSIONS_DIR=$folder PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}

read -ra tests <<<"${TESTS:-tests/test_ops -k native}"
check() { # compiler flags, then environment variables for the tests
  local flags=$1
  shift
  env MMVIM_NATIVE_FLAGS="$flags" "$@" "$python" -m pytest -q --durations=0 --durations-min=60 -p no:cacheprovider \
    -m 'not full' --ignore tests/test_ops/test_native_build.py "${tests[@]}"
}

check_threads() { # on std::thread in place of OpenMP, whose barriers the sanitizer does not see; tests/test_ops/std_threads.h
  local here=$PWD/tests/test_ops flags='-O1 -g -fsanitize=thread' word status fixed=()
  # With more random bits in addresses than it knows, the sanitizer does not start.
  if command -v setarch >/dev/null; then fixed=(setarch -R); fi
  "${CXX:-g++}" -std=c++20 $flags "$here/race.cpp" -o "$folder/race"
  for word in own race; do
    status=0
    "${fixed[@]}" env TSAN_OPTIONS=exitcode=66 "$folder/race" "$word" >"$folder/race.log" 2>&1 || status=$?
    if [ "$status" != "$([ $word = race ] && echo 66 || echo 0)" ]; then
      cat "$folder/race.log" >&2
      echo "error: ThreadSanitizer does not work here: status $status for the control '$word'" >&2
      exit 1
    fi
  done
  # Four threads, however many cores there are: what it looks at is what may happen, not what did. Children, the compiler
  # among them, run without the sanitizer.
  MMVIM_NATIVE_FLAGS="$flags -fno-openmp -include $here/std_threads.h" OMP_NUM_THREADS=4 LD_PRELOAD=$library \
    TSAN_OPTIONS=ignore_noninstrumented_modules=1:exitcode=66:report_signal_unsafe=0 \
    "${fixed[@]}" "$python" -c 'import os, sys; del os.environ["LD_PRELOAD"]; import pytest; sys.exit(pytest.main())' \
    -q --capture=sys --durations=0 --durations-min=60 -p no:cacheprovider -m 'not full' \
    --ignore tests/test_ops/test_native_build.py "${tests[@]}"
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
    threads)
      library=$("${CXX:-g++}" -print-file-name=libtsan.so)
      [ -e "$library" ] || { echo "error: ${CXX:-g++} has no ThreadSanitizer ($library); install its libtsan" >&2; exit 1; }
      check_threads ;;
    avx2)
      if ! grep -qw avx2 /proc/cpuinfo 2>/dev/null; then echo 'left out: this processor has no AVX2'; continue; fi
      check '-march=x86-64-v3' ;;
    portable)
      if [ "$(uname -m)" != x86_64 ]; then echo 'left out: this processor is not an x86; the ordinary build is portable'; continue; fi
      check '-march=x86-64' ;;
  esac
done
