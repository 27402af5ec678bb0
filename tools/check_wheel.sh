#!/usr/bin/env bash
# Runs the core tests (tests/core.txt) on a wheel in fresh environments, one for each version of PyTorch. Their PATH has
# the environment's programs and a few of coreutils, so no compiler; home and temporary folder are their own.
# usage: tools/check_wheel.sh WHEEL VERSION...      VERSION: of torch, or "newest" for the newest that pip finds
#   PYTHON=...   the Python of the environments (default: python3)
# Environments stay in build/wheel-check for the next run, which installs the wheel anew.
set -euo pipefail
cd "$(dirname "$0")/.."
wheel=$(realpath "$1")
shift
base=$PWD/build/wheel-check
rm -rf "$base/bin" && mkdir -p "$base/bin"
for tool in cat cp env ls mkdir mv rm uname; do ln -s "$(command -v "$tool")" "$base/bin"; done

failed=()
for version; do
  home=$base/$version
  if [ ! -e "$home/.torch" ]; then
    rm -rf "$home"
    "${PYTHON:-python3}" -m venv "$home"
    "$home/bin/pip" install -q "torch$([ "$version" = newest ] || echo "==$version")"
    touch "$home/.torch"
  fi
  "$home/bin/pip" install -q --force-reinstall --no-deps "$wheel"
  "$home/bin/pip" install -q "$wheel[test]"  # what it and the tests depend on
  rm -rf "$home/home" "$home/tmp" && mkdir "$home/home" "$home/tmp"
  echo "== $(basename "$wheel") with $("$home/bin/python" -c 'import sys, torch; print("torch", torch.__version__, "Python", sys.version.split()[0])')"
  clean=(env -i PATH="$home/bin:$base/bin" HOME="$home/home" TMPDIR="$home/tmp" LANG=C.UTF-8 PYTHONSAFEPATH=1
         OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive EQUIKERNELS_TEST_INSTALLED=1)
  for compiler in cc gcc c++ g++ clang clang++ nvcc; do
    if "${clean[@]}" "$BASH" -c "command -v $compiler"; then echo "check_wheel: $compiler is on the PATH" >&2; exit 2; fi
  done
  "${clean[@]}" pytest @tests/core.txt -q -p no:cacheprovider || failed+=("$version")
done
if [ ${#failed[@]} -gt 0 ]; then echo "check_wheel: failed with torch ${failed[*]}" >&2; exit 1; fi
