#!/usr/bin/env bash
# Everything that a GPU has to show, in under ten minutes, on a machine that may have no network.
#
#   tools/gpu_day.sh [tests | sanitizer | bench | profile ...]    all of them by default
#
# The machine needs Python with torch (built with CUDA), triton, numpy, pytest and pytest-benchmark. The package is the
# wheel in .gpu/ (made elsewhere by `EQUIKERNELS_CUDA=1 make wheel`); without one it is what PYTHON imports. Each stage
# has its own limit, and runs whether the one before it has passed or not. Logs and results are written to OUT.
#
#   PYTHON=python3   OUT=build/gpu_day   SITE=build/gpu_day/site (where the wheel is unpacked)   WORKERS=8
#   LIMITS=0         no limits            DRY_RUN=1  only say what each stage selects; needs no GPU
set -u
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3} OUT=${OUT:-build/gpu_day} WORKERS=${WORKERS:-8} LIMITS=${LIMITS:-1} DRY_RUN=${DRY_RUN:-}
SITE=${SITE:-$OUT/site} START=$SECONDS FAILED=0
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
DEVICE=${DRY_RUN:+cpu} DEVICE=${DEVICE:-cuda}
export PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive CUBLAS_WORKSPACE_CONFIG=:4096:8

if compgen -G '.gpu/*.whl' > /dev/null; then
  rm -rf "$SITE" && mkdir -p "$SITE" && "$PYTHON" -m zipfile -e .gpu/*.whl "$SITE"
  export PYTHONPATH=$(cd "$SITE" && pwd)${PYTHONPATH:+:$PYTHONPATH}
fi

# stage SECONDS LOG COMMAND...
stage() {
  local seconds=$1 log=$OUT/$2 status; shift 2
  [ "$LIMITS" = 0 ] && seconds=0
  echo "== $((SECONDS - START)) s, at most $seconds: $*" | tee -a "$log"
  timeout -k 5 "$seconds" "$@" >> "$log" 2>&1; status=$?
  tail -n 3 "$log"
  [ $status = 0 ] || { echo "status $status"; FAILED=1; }
}
# tests SECONDS LOG ARGUMENTS...: of pytest; in a dry run the number of tests that they select
tests() {
  local seconds=$1 log=$2; shift 2
  stage "$seconds" "$log" ${UNDER:-} "$PYTHON" -m pytest -q -p no:cacheprovider --tb=short ${DRY_RUN:+--collect-only} "$@"
}
networks() {
  local seconds=$1 name=$2; shift 2
  stage "$seconds" bench.txt "$PYTHON" -m equikernels.bench --device cuda --json "$OUT/$name.json" ${DRY_RUN:+--list} "$@"
}
parallel() { "$PYTHON" -c 'import xdist' 2> /dev/null && [ -z "$DRY_RUN" ] && echo "-n $WORKERS"; }
found() { command -v "$1" || ls "${@:2}" 2> /dev/null | head -n 1; }

machine() {
  nvidia-smi
  "$PYTHON" -c 'import torch, equikernels as ek
print("torch", torch.__version__, torch.cuda.get_device_properties(0) if torch.cuda.is_available() else "without a GPU")
print(ek.backends())'
}

# Every CUDA and Triton kernel against the reference. One backend may fail: the next one still runs.
run_tests() {
  tests 50 tests.txt tests/cuda/test_gpu.py
  local backend
  for backend in cuda triton; do
    EQUIKERNELS_TEST_DEVICE=$DEVICE EQUIKERNELS_BACKEND=$([ "$DEVICE" = cuda ] && echo $backend || echo auto) \
      tests 70 tests.txt tests/ops/test_ops.py $(parallel) \
      -k "values_and_gradients or bitwise_determinism or bad_values or non_contiguous"
  done
}
# A reduced suite, of which every kernel family is a part.
run_sanitizer() {
  local tool sanitizer; sanitizer=$(found compute-sanitizer /usr/local/cuda*/bin/compute-sanitizer)
  [ -n "$sanitizer$DRY_RUN" ] || { echo "no compute-sanitizer: left out"; return; }
  for tool in memcheck racecheck; do
    EQUIKERNELS_TEST_DEVICE=$DEVICE PYTORCH_NO_CUDA_MEMORY_CACHING=1 \
      UNDER="${sanitizer:+$sanitizer --tool $tool --kernel-regex kns=ek --print-limit 20 --error-exitcode 1}" \
      tests 50 sanitizer.txt tests/ops/test_ops.py -k "values_and_gradients and float32 and complete and \
(wide or euclidnet-complete or lorentz-complete or rank2_reduce-sum or softmax or mean-complete or odd or minkowski or plain)"
  done
}
run_bench() {
  networks 85 lorentznet --filter lorentznet/
  networks 50 pelican --filter "pelican/forward, 16 events, n 27 to 54" \
    --filter "pelican/training step, 16 events, n 27 to 54, against published"
  networks 40 edges --filter "egnn/forward, 80" --filter "euclidnet/forward, 80,256 edges"
  local measured=(--benchmark-max-time=0.1 --benchmark-json="$OUT/kernels.json")
  [ -n "$DRY_RUN" ] && measured=()
  tests 45 bench.txt bench/kernels -k "not backward and jets and equikernels" --device $DEVICE --dtypes float32 "${measured[@]}"
}
# The two kernels that matrix products bound.
run_profile() {
  local ncu kernel; ncu=$(found ncu /opt/nvidia/nsight-compute/*/ncu)
  [ -n "$ncu$DRY_RUN" ] || { echo "no ncu: left out"; return; }
  for kernel in message_forward linear; do
    stage 25 profile.txt ${DRY_RUN:+echo} "$ncu" --clock-control none --set full -k "regex:$kernel" -c 1 \
      "$PYTHON" -m equikernels.bench --device cuda --quick --filter "lorentznet/forward, 20 jets, against published"
  done
}

machine > "$OUT/machine.txt" 2>&1
if [ -z "$DRY_RUN" ] && ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "skipped: torch finds no CUDA device"; exit 0
fi
for part in "${@:-tests sanitizer bench profile}"; do
  for name in $part; do "run_$name"; done
done
echo "== $((SECONDS - START)) s: results in $OUT"
exit $FAILED
