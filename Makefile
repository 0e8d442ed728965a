# The first interpreter that is Python 3.11 or newer and can create a virtual environment.
PYTHON ?= $(shell for p in python3.11 python3; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)

BIN := .venv/bin
STAMP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help venv train test test-all test-machines test-readers lint docs coverage mutation audit licences lock clean

help:
	@echo 'make train [ARGS="..."]  train on Hopper; ARGS are Hydra overrides, such as ARGS="seed=1"'
	@echo 'make test                lint, type-check and run the tests'
	@echo 'make test-all            lint, type-check and run all tests: also soak, fuzzing, launchers, interruptions, rare combinations'
	@echo 'make test-machines       the tests as other processors, and a busy one, would run them'
	@echo 'make test-readers        do the formats of robot learning read what the tests write in them? Installs their readers'
	@echo 'make lint                lint and type-check only'
	@echo 'make docs                build the documentation into build/site'
	@echo 'make audit               known vulnerabilities of the versions in constraints.txt (asks a server)'
	@echo 'make licences            write docs/licences.md anew'
	@echo 'make coverage            the tests again, and the lines that none of them runs'
	@echo 'make mutation            would the tests notice a change of the maths? It goes on where it was stopped'
	@echo 'make venv                create .venv and install the package and its tools into it'
	@echo 'make lock                write requirements.lock anew, with the versions in constraints.txt (needs uv)'
	@echo 'make clean               remove .venv, caches and build products (training outputs stay)'

venv: $(STAMP)

# Every file is checked against its hash, but those of PyTorch, whose build (for processors, or one of several for GPUs) is chosen
# by the index that pip is set to, and what only some of its builds need.
$(STAMP): pyproject.toml constraints.txt requirements.lock
	@test -n "$(PYTHON)" || { echo 'No Python >= 3.11 with the venv module was found; set PYTHON=/path/to/python' >&2; exit 1; }
	@echo 'Installing iwbc and its dependencies into .venv (about a minute) ...'
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	@$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt torch
	@$(BIN)/python -m pip install --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

train: $(STAMP)
	$(BIN)/python -m iwbc.train env=hopper seeds=[0,1,2] $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# A worker begins with a part of the tests that lies together, and so shares its fixtures.
PYTEST := $(BIN)/pytest -n auto --dist worksteal

test: lint
	$(PYTEST)

test-all: lint
	$(PYTEST) -m ''

test-machines: $(STAMP)
	PYTEST="$(PYTEST)" tests/machines.sh

READERS := build/readers
SITE := import sysconfig; print(sysconfig.get_path("purelib"))

# A virtual environment that sees all of .venv and has these packages beside it.
$(READERS)/.installed: tests/readers.txt $(STAMP)
	@$(BIN)/python -m venv $(READERS)
	@echo "import site; site.addsitedir('$$($(BIN)/python -c '$(SITE)')')" > "$$($(READERS)/bin/python -c '$(SITE)')/beside.pth"
	@$(READERS)/bin/python -m pip install --disable-pip-version-check --no-deps --quiet -r $<
	@touch $@

test-readers: $(READERS)/.installed
	$(READERS)/bin/python -m pytest tests/test_formats.py tests/test_formats_own_readers.py

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

QUALITY := .venv/.quality

$(QUALITY): $(STAMP)
	@$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[all,quality]'
	@touch $@

# Processes that tests start are measured, too (pyproject.toml); one test leaves no room on the disk for that.
coverage: $(QUALITY)
	$(PYTEST) -m '' --cov --cov-report=term-missing:skip-covered --cov-fail-under=92 \
		--deselect tests/test_data_array_files.py::test_a_full_disk_leaves_no_cache

SESSION := build/mutation.sqlite

# The baseline is the tests without a change: where they fail, every change would seem noticed.
$(SESSION): cosmic-ray.toml | $(QUALITY)
	@mkdir -p build && rm -f $@ $@.new
	$(BIN)/cosmic-ray baseline cosmic-ray.toml
	$(BIN)/cosmic-ray init cosmic-ray.toml $@.new
	$(BIN)/cr-filter-operators $@.new cosmic-ray.toml
	@mv $@.new $@

mutation: $(SESSION)
	$(BIN)/cosmic-ray exec cosmic-ray.toml $(SESSION)
	$(BIN)/cr-report --surviving-only --show-diff $(SESSION)

# --strict: without it, a package that the server does not know passes.
audit: $(QUALITY)
	$(BIN)/uv tool run pip-audit --requirement constraints.txt --no-deps --disable-pip --strict

licences: $(QUALITY)
	$(BIN)/python -m tools.licences

lock:
	@mkdir -p build && echo torch > build/excluded.txt
	PATH="$(CURDIR)/$(BIN):$$PATH" uv pip compile --universal --python-version 3.11.5 --generate-hashes --no-annotate --quiet --constraints constraints.txt \
		--extra dev --excludes build/excluded.txt --custom-compile-command 'make lock' pyproject.toml -o requirements.lock

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find iwbc tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
