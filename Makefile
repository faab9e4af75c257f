PYTHON ?= python3
VENV ?= .venv

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TYPED := build/typed

.PHONY: help venv demo test test-slow lint clean

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

venv: $(INSTALLED)  ## the virtual environment, with the package in it, editable

$(INSTALLED): setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	    -c constraints.txt -e ".[digits,mnist,video,test,dev]"
	touch $@

demo: $(INSTALLED)  ## train on moving digits and draw what was found, into runs/demo
	$(BIN)/python examples/moving_mnist.py --preset embedded-digits --out runs/demo

# One process for each core, one thread in each: threads of several processes would wait for each other.
TESTS := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

test: $(INSTALLED)  ## the tests that take seconds
	$(TESTS)

test-slow: $(INSTALLED)  ## the tests that take minutes
	$(TESTS) -m slow

# mypy reads no editable install, so it gets links that put models/ and guides/ where an install puts them.
lint: $(INSTALLED)  ## style, format and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	@rm -rf $(TYPED) && mkdir -p $(TYPED)/pyro_sqair
	@ln -s $(CURDIR)/pyro_sqair/* $(CURDIR)/models $(CURDIR)/guides $(TYPED)/pyro_sqair
	cd $(TYPED) && $(abspath $(BIN))/mypy --config-file $(CURDIR)/pyproject.toml \
	    --cache-dir $(CURDIR)/.mypy_cache -p pyro_sqair

clean:  ## remove the virtual environment and everything built; runs/ stays
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
