# demo, distributed, docs, test, clients, cuda-check, sanitize, fuzz, guards, large, bench,
# bench-models, lint: each works from a fresh clone and sets up what it needs in .venv; bench-gpu
# needs PyTorch and torchvision for CUDA.
# `make test PADDLE=2.6.2` does the same for another Paddle, in .venv-2.6.2.

DEFAULT := 3.3.1
PADDLE ?= $(DEFAULT)
VENV := .venv$(if $(filter-out $(DEFAULT),$(PADDLE)),-$(PADDLE))
PYTHON := $(VENV)/bin/python
REQUIREMENTS := "paddlepaddle==$(PADDLE)" $(if $(filter 2.%,$(PADDLE)),"numpy<2")
SOURCES := $(shell find custom_ops -type f) setup.py pyproject.toml paddle_dcn/_build.py

.PHONY: demo distributed docs test clients cuda-check sanitize fuzz guards large bench bench-models
.PHONY: bench-gpu lint clean

demo: $(VENV)/.demo
	$(PYTHON) examples/demo.py

# Training on one process, on two, and on two of which one is killed.
distributed: $(VENV)/.demo
	$(PYTHON) examples/distributed.py --check

# The pages of docs/ with the API from docstrings, in build/docs.
docs: $(VENV)/.docs
	$(PYTHON) -m sphinx --fail-on-warning --keep-going -q docs build/docs

test: $(VENV)/.test
	$(PYTHON) -m pytest -q -n auto --maxprocesses 4 --dist worksteal $(ARGS)

# Published models that use deformable convolutions, of packages that need much more than they do.
clients: $(VENV)/.clients
	$(PYTHON) -m pytest -q tests/project/test_clients.py $(ARGS)

# The CUDA kernels without a GPU: compiled with nvcc, run on the CPU, under sanitizers too; their
# benchmark with PyTorch on the CPU.
cuda-check: $(VENV)/.test $(VENV)/.bench $(VENV)/.volta
	PADDLE_DCN_CUDA_CHECK=1 $(PYTHON) -m pytest -q -rs -n auto --dist loadfile \
		tests/kernels/test_cuda_compile.py tests/kernels/test_cuda_emulation.py \
		tests/benchmarks/test_gpu.py $(ARGS)

# The CPU kernels under sanitizers, every engine on the whole table, and seeded faults.
sanitize: $(VENV)/.test
	PADDLE_DCN_SANITIZE=1 $(PYTHON) -m pytest -q -rs -n auto --dist worksteal \
		tests/kernels/test_sanitizers.py tests/kernels/test_faults.py tests/kernels/test_engines.py \
		tests/kernels/test_inference.py $(ARGS)

# Random problems and invalid calls, in processes that may die; SEED repeats a run.
fuzz: SECONDS := 600
fuzz: $(VENV)/.test
	$(PYTHON) -m tests.fuzz --seconds $(SECONDS) $(if $(SEED),--seed $(SEED)) $(ARGS)

# Each promise's guard taken out of a copy, in which a test must fail then.
guards: $(VENV)/.test
	$(PYTHON) -m tests.guards $(ARGS)

# More than 2^31 values in a tensor, and in the columns that are never made.
large: $(VENV)/.test
	$(PYTHON) -m tests.large

bench: $(VENV)/.bench
	$(PYTHON) -m benchmarks.cpu --output benchmarks/results/cpu $(ARGS)
	$(PYTHON) -m benchmarks.aggregation --output benchmarks/results/aggregation

# Whole networks, in predictors and other runtimes.
bench-models: $(VENV)/.bench
	$(PYTHON) -m benchmarks.models --output benchmarks/results/models $(ARGS)

# On a GPU, without Paddle: the kernels under compute-sanitizer, then checked and timed.
bench-gpu:
	python3 -m benchmarks.gpu --sanitize
	python3 -m benchmarks.gpu --output benchmarks/results/gpu $(ARGS)

lint: export CXXFLAGS := -Werror
lint: $(VENV)/.lint
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	find custom_ops examples tests -name '*.cc' -o -name '*.cu*' -o -name '*.h' | xargs $(VENV)/bin/clang-format --dry-run -Werror
	$(PYTHON) setup.py -q build_ext --build-lib build/lint

clean:
	rm -rf .venv* build dist *.egg-info paddle_dcn/*.so

$(VENV)/.paddle:
	python3 -m venv $(VENV)
	$(PYTHON) -m pip install -q "setuptools>=77" wheel $(REQUIREMENTS)
	touch $@

# A compiler for Volta, in some 100 MB; without it a test is skipped.
$(VENV)/.volta: | $(VENV)/.paddle
	-$(PYTHON) -m pip install -q --no-deps nvidia-cuda-nvrtc-cu12==12.9.86 \
		nvidia-cuda-runtime-cu12==12.9.79 nvidia-cuda-cccl-cu12==12.9.27 && touch $@

$(VENV)/.clients: $(VENV)/.test
	$(PYTHON) -m pip install -q --no-deps ppgan==2.1.0 paddledet==2.6.0 pyyaml
	touch $@

# Whose plain convolution is the floor of every row.
$(VENV)/.bench: REQUIREMENTS += "torch==2.13.0"

# The package in place, its library built, and one set of the extras in pyproject.toml.
$(VENV)/.%: $(SOURCES) | $(VENV)/.paddle
	$(PYTHON) -m pip install -q --no-build-isolation -e ".[$*]" $(REQUIREMENTS)
	touch $@
