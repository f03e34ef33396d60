# make run       install, and run the whole product on this machine        (make run ARGS='--instances 3')
# make test      install, and run all checks and tests                      (make test ARGS='tests/model -x')
# make bench     benchmark against a bare server and the official SDK       (make bench ARGS=--quick)
# make check     only the checks: ruff, mypy, import-linter
# make screens   save screenshots of every page of the console to build/screens
# make messages  update the catalogs of the console's translations
# make lock      write the requirements files from pyproject.toml           (make lock ARGS=--upgrade)

PYTHON ?= python3
ARGS ?=

export PIP_DISABLE_PIP_VERSION_CHECK = 1
export PIP_NO_INPUT = 1

.PHONY: run test bench check screens messages lock
.DELETE_ON_ERROR:

run: .venv/.local
	@exec .venv/bin/python -m app dev $(ARGS)

# Two at a time, because tests wait half of their time. One file's tests share a process, so fixtures are set up once.
test: check
	@exec .venv/bin/python -m pytest --numprocesses 2 --dist loadfile $(ARGS)

bench: .venv/.dev
	@exec .venv/bin/python -m tests.benchmarks $(ARGS)

check: .venv/.dev
	@.venv/bin/ruff check
	@.venv/bin/ruff format --check
	@.venv/bin/mypy
	@.venv/bin/lint-imports

screens: .venv/.dev
	@exec .venv/bin/python -m tests.browser.screens $(ARGS)

messages: .venv/.dev
	@exec .venv/bin/python -m tests.messages

# Each set contains the previous one, in the same versions.
lock: .venv/.dev
	@$(compile) pyproject.toml --output-file requirements.txt
	@$(compile) pyproject.toml --extra local --constraint requirements.txt --output-file requirements-local.txt
	@$(compile) pyproject.toml --extra local --group dev --constraint requirements-local.txt \
	  --output-file requirements-dev.txt
	@printf 'setuptools\nwheel\n' | $(compile) - --constraint requirements-dev.txt --output-file requirements-build.txt

compile = .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
  --custom-compile-command 'make lock' $(ARGS)

# A stamp file is written when its set is complete. After an interrupted installation everything is installed again.
.venv/.local: requirements-build.txt requirements-local.txt
	$(call install,local)

.venv/.dev: requirements-build.txt requirements-dev.txt
	$(call install,dev)
	@touch .venv/.local

# Some packages exist as source only. The packages that build them are pinned by hash too (requirements-build.txt).
define install
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "Python 3.11 or newer is needed ($(PYTHON) is not): make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "$(PYTHON) cannot make virtual environments: apt-get install python3-venv"; exit 1; }
	@echo "installing into .venv (once; some 20 to 60 seconds)"
	@if [ -e .venv/.installing ] || [ ! -e .venv/.made ]; then $(PYTHON) -m venv --clear .venv && touch .venv/.made; fi
	@touch .venv/.installing
	@for set in build $(1); do \
	  .venv/bin/python -m pip install --require-hashes --no-build-isolation --requirement requirements-$$set.txt \
	    >.venv/install.log 2>&1 || { cat .venv/install.log; exit 1; }; \
	done
	@rm .venv/.installing
	@touch $@
endef
