# `make help` lists what there is. Every target does the set-up it needs; tools/setup_env.sh tells how it is done.
SHELL := bash
STACK ?= onedl
ifeq ($(STACK),openmmlab)
VENV ?= .venv-openmmlab
else
VENV ?= .venv
endif
# with its folder on the path, so that PyTorch finds the environment's ninja when it compiles an operator
PY = PATH="$(abspath $(VENV))/bin:$$PATH" $(VENV)/bin/python
export STACK VENV
# Tests at a time, each on one thread unless OMP_NUM_THREADS says otherwise; 0: one, in pytest's own process
WORKERS ?= 2
# A worker that dies ends the run: pytest-xdist 3.8 may wait for ever after it has replaced one
PYTEST = OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(PY) -m pytest -n $(WORKERS) --dist loadfile --max-worker-restart 0
# A test that hangs shows where, and ends its worker
LIMIT = -o faulthandler_timeout=900 -o faulthandler_exit_on_timeout=true

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast test-all lint docs sanitize fuzz dist versions audit setup clean distclean

help: ## list the targets and their variables
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo 'Variables:  ARGS=... is passed on to demo and test, as in: make test ARGS="-k vim -x"'
	@echo '            WORKERS=2 is how many tests run at a time; 0 runs them in one process, as pytest does by itself'
	@echo '            STACK=openmmlab takes the original OpenMMLab packages instead of the maintained ones (onedl)'
	@echo '            PYTHON, VENV, KEEP_TORCH, MAX_JOBS: see tools/setup_env.sh --help'

demo: ## make pictures, train a small Vim on them, draw the result in work_dirs/demo/
	@tools/setup_env.sh demo
	@$(PY) demo/demo.py $(ARGS)

test: ## run the tests; the first time this compiles mmcv's operators (about 13 minutes on two cores)
	@tools/setup_env.sh test
	@$(PYTEST) $(LIMIT) -m 'not full' $(ARGS)

test-fast: ## run the quick tests alone, without builds, other processes, compilations and whole published models
	@tools/setup_env.sh test
	@$(PYTEST) $(LIMIT) -m 'not slow and not full' $(ARGS)

test-all: ## run every test and compile every kernel for every GPU; writes the log that a release needs
	@tools/setup_env.sh test
	@mkdir -p tests/logs
	@log=tests/logs/$$($(PY) -c 'import mmvim; print(mmvim.__version__)').txt; set -o pipefail; \
	{ git describe --always --dirty 2>/dev/null || true; date -u '+%F %H:%M UTC'; \
	  MMVIM_TEST_EVERY_KERNEL=1 $(PYTEST) $(ARGS); } 2>&1 | tee "$$log"; status=$$?; \
	echo "The log is $$log; commit it with the release that it is of."; exit $$status

lint: ## check style, format and types
	@tools/setup_env.sh lint
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

docs: ## write the documentation site to docs/site/build; a warning is an error
	@tools/setup_env.sh lint
	@$(PY) -m sphinx -W --keep-going -q -b html -c docs/site . docs/site/build
	@echo 'Open docs/site/build/docs/site/index.html'

sanitize: ## run the tests of the C++ on builds of it with sanitizers (memory, threads), for AVX2 and for any x86
	@tools/setup_env.sh test
	@PYTHON=$(VENV)/bin/python tools/check_native_scan.sh $(ARGS)

fuzz: ## feed damaged checkpoints and odd options to their readers for an hour; ARGS="--minutes 5"
	@tools/setup_env.sh test
	@$(PY) -c 'import atheris' 2>/dev/null || $(PY) -m pip install --quiet 'atheris>=3' || true
	@$(PY) tools/fuzz.py $(ARGS)

dist: ## build the wheel and the sdist of HEAD twice, the same to the byte, into dist/
	@tools/setup_env.sh lint
	@$(PY) tools/build_dist.py --check $(ARGS)

versions: ## run the tests with other versions of Python, PyTorch and OpenMMLab, and write docs/versions.md (many hours)
	@tools/check_versions.sh $(ARGS)

audit: ## ask for known vulnerabilities of the pinned packages; needs PyPI's own service
	@tools/setup_env.sh lint
	@$(PY) -m venv $(VENV)/.setup/audit && $(VENV)/.setup/audit/bin/python -m pip install --quiet pip-audit
	@$(VENV)/.setup/audit/bin/pip-audit --strict --disable-pip --require-hashes \
	  $(patsubst %,-r requirements/%.txt,build runtime $(STACK) dev mim) $(ARGS)

setup: ## only the set-up that `make test` does
	@tools/setup_env.sh test
	@echo "$(VENV) is ready; activate it with: . $(VENV)/bin/activate"

clean: ## remove build leftovers and caches
	@rm -rf build dist *.egg-info .pytest_cache .hypothesis .ruff_cache .mypy_cache mmvim/ops/native/*.so
	@find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +

distclean: clean ## the same, and the environment that the set-up made
	@if [ -f $(VENV)/.setup/made_here ]; then rm -rf $(VENV); fi
