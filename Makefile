# Needs Python >= 3.10, g++ or clang, and make; everything else is fetched by tools/dev.py, which also says which
# interpreter is used and what happens to it (nothing).
#
#   PYTHON=...       an interpreter; if it has torch, that torch is used and left alone (python3)
#   VENV=...         environment that is made otherwise (.venv)
#   TORCH_SPEC=...   torch to install there (torch==2.13.0)
#   TORCH_INDEX=...  package index to take it from, for instance torch's index of CPU builds
#   CXX=...          C++ compiler (the first there is of g++, c++, clang++)
#   ARGS=...         handed to pytest, the benchmark or the tool, for instance ARGS='-k uniform -x'
#   MODULE=...       a Python file, for mutation
#   TESTS=...        a folder or files of tests that shall notice, for mutation
#   RELEASES=...     of torch for test-range ('2.10.0 2.15.0')
#   FASTINIT_CUDA=auto|0|1
#   STAGES=...       of gpu-check (build,bits,headline,sanitizer,tests,bench-gpu,...: its --help)

PYTHON ?= python3
ifeq ($(origin CXX),default)
CXX := $(notdir $(firstword $(foreach name,g++ c++ clang++,$(shell command -v $(name))) g++))
endif
ARGS ?=
PYTHON_EXPLICIT := $(filter-out file,$(origin PYTHON))
export PYTHON_EXPLICIT VENV TORCH_SPEC TORCH_INDEX CXX

DEV := $(PYTHON) tools/dev.py
TESTED = $(shell $(PYTHON) -c "exec(open('fastinit/_version.py').read()); print(*TORCH_TESTED)")
TORCH_TESTS = $(addprefix tests/,operators initializers patch models distributed recording report core/test_haar.py \
	core/test_keys.py core/test_known_answers.py core/test_promises_dtype.py core/test_promises_layout.py \
	core/test_promises_overlap.py core/test_promises_shards.py core/test_self_overlap.py \
	project/test_command_line.py project/test_import.py project/test_recipes.py project/test_setup.py)
# In their order, so that the longest, which are in the middle, are not the last; ARGS='-n 0 --pdb' has none of it.
WORKERS = -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
CXX_SOURCES = $(shell find csrc tests -name '*.h' -o -name '*.cpp' -o -name '*.inl' -o -name '*.cu' \
	-o -name '*.cuh')

.DEFAULT_GOAL := help
.PHONY: help build test test-range bench summary gpu-check example compare lint format exhaustive mutants mutation soak zoo clean distclean python compiler
.NOTPARALLEL:

help: ## this list
	@echo 'make build|test|bench|... [PYTHON=...] [ARGS=...]   (variables: see the top of the Makefile)'
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

build: python compiler ## compile the extension in place, if sources or torch have changed
	@$(DEV) build

test: python compiler ## run the tests, files side by side
	@$(DEV) test python -m pytest -q $(WORKERS) $(ARGS)

test-range: python compiler ## what depends on torch, under the oldest and the newest release, in .venv-torch-*
	@set -e; for release in $(or $(RELEASES),$(TESTED)); do \
		PYTHON_EXPLICIT= VENV=.venv-torch-$$release TORCH_SPEC=torch==$$release \
			$(DEV) test python -m pytest -q $(WORKERS) $(TORCH_TESTS) $(ARGS); \
	done

bench: python compiler ## measure against torch, then initialise a real model
	@$(DEV) bench python benchmarks/run.py $(ARGS)

summary: python compiler ## the README's picture and table, from benchmarks/results
	@$(DEV) examples python benchmarks/summary.py

gpu-check: python compiler ## on a machine with a GPU: build, test, sanitize, measure, write the results
	@STAGES='$(STAGES)' $(PYTHON) tools/gpu_check.py $(ARGS)

example: python compiler ## run examples/drop_in.py
	@PYTHONPATH=. $(DEV) build python examples/drop_in.py

compare: python compiler ## train a small network from nine initialisations
	@$(DEV) examples python examples/compare_inits.py $(ARGS)

lint: python ## ruff, mypy, clang-format
	@$(DEV) lint ruff check .
	@$(DEV) lint ruff format --check .
	@$(DEV) lint python -m mypy
	@$(if $(CXX_SOURCES),$(DEV) lint clang-format --dry-run -Werror $(CXX_SOURCES))

format: python ## rewrite the sources the way lint wants them
	@$(DEV) lint ruff check --fix-only --quiet .
	@$(DEV) lint ruff format .
	@$(if $(CXX_SOURCES),$(DEV) lint clang-format -i $(CXX_SOURCES))

exhaustive: python compiler ## check the transforms over all 2^32 words
	@$(DEV) test,bench python tools/exhaustive.py $(ARGS)

mutants: python compiler ## check that the tests fail for planted defects
	@$(DEV) test python tools/mutants.py $(ARGS)

mutation: python compiler ## change a Python MODULE here and there and see which changes its TESTS do not notice
	@$(DEV) test,mutation python tools/mutation.py $(MODULE) $(TESTS)

soak: python compiler ## random constructors through batch, materialize, initialize_ (ARGS='--programs 100000 --seed 1')
	@$(DEV) test python tools/model_soak.py $(ARGS)

zoo: python compiler ## compare model families with torch's own (ARGS='--sources transformers timm --out docs/zoo')
	@$(DEV) test python tools/zoo.py $(ARGS)

clean: ## remove what was built
	rm -rf build dist *.egg-info fastinit/_C.*.so .mypy_cache .pytest_cache .ruff_cache .hypothesis

distclean: clean ## also remove the environments made here
	rm -rf .venv .venv-over-* .venv-torch-*

python:
	@command -v $(PYTHON) >/dev/null || \
		{ echo 'fastinit: $(PYTHON) not found: install Python 3.10 or later, or name one with PYTHON=' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "fastinit: Python 3.10 or later is needed, $(PYTHON) is `$(PYTHON) --version 2>&1`: name another with PYTHON=" >&2; exit 1; }

compiler:
	@command -v $(firstword $(CXX)) >/dev/null || \
		{ echo 'fastinit: $(firstword $(CXX)) (or set CXX) not found: install a C++ compiler (Debian, Ubuntu: apt install g++)' >&2; exit 1; }
