# Everything here sets itself up: Python 3.11 or newer, make and a package registry for pip are enough.
# FAISS=gpu installs faiss-gpu in place of faiss-cpu; PYTHON=... names the interpreter; PYTEST="..." adds options to pytest.

PYTHON ?=
FAISS ?= cpu
PYTEST ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
CODE := kt_batch jobs tests benchmarks
comma := ,
OTHER_FAISS := $(if $(filter gpu,$(FAISS)),cpu,gpu)

# An install is redone when pyproject.toml changed; the code itself is installed editable.
VENV_READY := $(VENV)/.ready
DEMO_READY := $(VENV)/.ready-demo-$(FAISS)
TEST_READY := $(VENV)/.ready-test-$(FAISS)

ifeq ($(filter cpu gpu,$(FAISS)),)
$(error FAISS is '$(FAISS)'; it may be cpu or gpu)
endif

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-all chaos lint format clean

help:  ## what can be made
	@awk -F ':.*## +' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' Makefile

demo: $(DEMO_READY)  ## the whole main job, offline, on photographs that come along; ends with the page to open
	$(BIN)/kt-batch demo --out demo-out

test: $(TEST_READY)  ## the quick tests, on two processes; a file stays on one
	$(BIN)/python -m pytest -m "not slow and not gpu" -n 2 --dist loadfile --durations=10 --durations-min=1 $(PYTEST)

test-slow: $(TEST_READY)  ## the slow tests
	$(BIN)/python -m pytest -m "slow and not gpu" --durations=20 --durations-min=1 $(PYTEST)

chaos: $(TEST_READY)  ## kill random processes of real runs, ROUNDS=50 times
	ROUNDS=$(or $(ROUNDS),50) $(BIN)/python -m pytest tests/e2e/test_chaos.py $(PYTEST)

test-all: test test-slow  ## all tests but those that need a GPU

lint: $(TEST_READY)  ## ruff, mypy and the layers of imports
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(TEST_READY)  ## put the code in order
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

clean:  ## remove what was made: the virtual environment, caches, the demo's output
	rm -rf $(VENV) demo-out build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +

# A virtual environment with pip in it. Debian's python3 comes without ensurepip; then the pip outside fills the environment.
$(VENV_READY):
	@for python in $(PYTHON) $(if $(PYTHON),,python3 python3.14 python3.13 python3.12 python3.11 python); do \
	    "$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null && found=$$python && break; \
	done; \
	if [ -z "$$found" ]; then \
	    echo "kt_batch needs Python 3.11 to 3.14, and $(if $(PYTHON),$(PYTHON) is not one of them,none was found: install one or name it with make PYTHON=...)." >&2; exit 1; \
	fi; \
	$(BIN)/python -m pip --version >/dev/null 2>&1 \
	    || "$$found" -m venv --clear $(VENV) >/dev/null 2>&1 \
	    || { "$$found" -m venv --clear --without-pip $(VENV) && "$$found" -m pip --quiet --python $(BIN)/python install pip; } \
	    || { echo "$$found can make no virtual environment with pip in it: install its venv module (Debian: python3-venv)." >&2; exit 1; }
	@touch $@

# faiss-cpu and faiss-gpu write the same files, so removing one damages the other: both go before one comes.
define install
@echo "Installing kt_batch [$(FAISS),$(1)] into $(VENV); the first time this takes a few minutes."
@if $(PIP) show faiss-$(OTHER_FAISS) >/dev/null 2>&1; then $(PIP) uninstall --yes faiss-cpu faiss-gpu; rm -f $(VENV)/.ready-*; fi
@$(PIP) install --editable '.[$(FAISS),$(1)]'
@touch $@
endef

$(DEMO_READY): pyproject.toml | $(VENV_READY)
	$(call install,demo)

$(TEST_READY): pyproject.toml | $(VENV_READY)
	$(call install,test$(comma)dev$(comma)browser)
